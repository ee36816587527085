//! `counters`: one list per owner, what passed before what was dropped.

use std::io::{self, Write};

use anstyle::Style;
use base::control::OwnerCounters;

/// Shows them; those that are zero only if `all`.
pub fn counters(owners: &[OwnerCounters], all: bool) -> io::Result<()> {
    write!(anstream::stdout(), "{}", render(owners, all))
}

fn render(owners: &[OwnerCounters], all: bool) -> String {
    let bold = Style::new().bold();
    let blocks = owners.iter().map(|owner| {
        let shown = |(_, value): &(&String, &u64)| all || **value > 0;
        // Without a dot in the name: what passed. With one: what was dropped or broke.
        let (dropped, passed): (Vec<_>, Vec<_>) =
            owner.counters.iter().filter(shown).partition(|(name, _)| name.contains('.'));
        let mut lines: Vec<_> = passed.into_iter().chain(dropped).collect();
        let width = |text: String| text.len();
        let names = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let values = lines.iter().map(|(_, value)| width(value.to_string())).max().unwrap_or(0);
        let mut block = format!("{bold}{}{bold:#}\n", owner.owner);
        if lines.is_empty() {
            block.push_str("  nothing yet\n");
        }
        for (name, value) in lines.drain(..) {
            block.push_str(&format!("  {name:names$}  {value:>values$}\n"));
        }
        block
    });
    blocks.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::control::CounterOwner;

    #[test]
    fn what_passed_comes_before_what_was_dropped_and_zeroes_are_left_out() {
        let counters = [("drop.too_big", 3), ("taken", 1200), ("answered", 7), ("silent", 0)];
        let counters = counters.map(|(name, value)| (name.to_owned(), value)).into();
        let owners = [
            OwnerCounters { owner: CounterOwner::Vm("web".into()), counters },
            OwnerCounters { owner: CounterOwner::Host("lan".into()), counters: [].into() },
        ];
        let shown = anstream::adapter::strip_str(&render(&owners, false)).to_string();
        let expected = "\
vm/web
  answered         7
  taken         1200
  drop.too_big     3

host/lan
  nothing yet
";
        assert_eq!(shown, expected);
        assert!(render(&owners, true).contains("silent"));
    }
}
