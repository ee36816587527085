//! The names of one network: `web` and `web.lan` for VM `web` of network `lan`, and back from addresses.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// One network's names. Letters count as small ones.
#[derive(Debug, Default)]
pub struct Names {
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
}

impl Names {
    /// The names of VMs on a network.
    pub fn new(network: &str, vms: &BTreeMap<String, Vec<IpAddr>>) -> Self {
        let mut names = Self::default();
        for (vm, addresses) in vms {
            let short = vm.to_ascii_lowercase();
            let long = format!("{short}.{}", network.to_ascii_lowercase());
            for address in addresses {
                names.names.insert(*address, long.clone());
            }
            names.addresses.insert(short, addresses.clone());
            names.addresses.insert(long, addresses.clone());
        }
        names
    }

    /// The addresses of a name, which has small letters and no dot at its end.
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(name).map(Vec::as_slice)
    }

    /// The long name of an address.
    pub fn name(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_a_short_name_a_long_one_and_its_addresses_lead_back() {
        let own: Vec<IpAddr> = ["203.0.113.10", "2001:db8::10"].map(|a| a.parse().unwrap()).into();
        let vms = [("Web".to_owned(), own.clone()), ("none".to_owned(), Vec::new())].into();
        let names = Names::new("Lan", &vms);
        for name in ["web", "web.lan"] {
            assert_eq!(names.addresses(name), Some(own.as_slice()), "{name}");
        }
        assert_eq!(names.addresses("none.lan"), Some(&[][..]));
        assert_eq!((names.addresses("lan"), names.addresses("web.lan.lan")), (None, None));
        assert_eq!(names.name(own[1]), Some("web.lan"));
        assert_eq!(names.name("203.0.113.11".parse().unwrap()), None);
    }
}
