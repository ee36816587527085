//! Stops many VMs in the reverse of their order.
//!
//! # Theory of operation
//! A task for each VM: it waits for the tasks of all that are after it, asks its VM to stop, and waits
//! until it rests. So one that takes its time holds up those before it and no others, and VMs
//! without an order between them stop at the same time. How a guest is asked, and for how long, is
//! the business of its lifecycle.
//!
//! That a task has ended is told by its channel's end, which comes even if the task is aborted: whoever
//! lets go of [`all`] ends all tasks.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Remote;
use super::lifecycle::Input;

/// One VM that is to stop.
pub(super) struct Part {
    pub(super) name: String,
    /// Those that are stopped after it.
    pub(super) after: Vec<String>,
    pub(super) remote: Remote,
}

/// For each VM those that must have ended before it is stopped. `after` says of each VM whom it was
/// started after; names that are not among them do not count.
fn followers<'n>(after: &[(&'n str, &'n [String])]) -> BTreeMap<&'n str, Vec<&'n str>> {
    let mut followers: BTreeMap<&str, Vec<&str>> =
        after.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for (name, before) in after {
        for before in before.iter() {
            if let Some(its) = followers.get_mut(before.as_str()) {
                its.push(name);
            }
        }
    }
    followers
}

/// Stops them; ready when all rest.
pub(super) async fn all(parts: Vec<Part>, force: bool) {
    let order: Vec<(&str, &[String])> =
        parts.iter().map(|part| (part.name.as_str(), part.after.as_slice())).collect();
    let mut running = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for (name, _) in &order {
        let (end, ended) = watch::channel(());
        running.insert((*name).to_owned(), end);
        ends.insert(*name, ended);
    }
    let mut waits: BTreeMap<String, Vec<watch::Receiver<()>>> = BTreeMap::new();
    for (name, followers) in followers(&order) {
        let theirs = followers.iter().filter_map(|follower| ends.get(follower).cloned());
        waits.insert(name.to_owned(), theirs.collect());
    }
    drop(ends);
    let mut tasks = JoinSet::new();
    for Part { name, remote, .. } in parts {
        let (end, waits) = (running.remove(&name), waits.remove(&name));
        tasks.spawn(async move {
            for mut ended in waits.into_iter().flatten() {
                // Nothing is ever sent: an error is the end of the other task.
                let _ = ended.changed().await;
            }
            // One that does not run need not be stopped.
            let _ = remote.wish(Input::Stop { force }).await;
            remote.at_rest().await;
            drop(end);
        });
    }
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_exactly_those_that_are_after_it() {
        type Case<'a> = (&'a [(&'a str, &'a [&'a str])], &'a [(&'a str, &'a [&'a str])]);
        let cases: [Case<'_>; 4] = [
            (&[], &[]),
            // Without an order nobody waits.
            (&[("a", &[]), ("b", &[])], &[("a", &[]), ("b", &[])]),
            (
                &[("db", &[]), ("app", &["db"]), ("web", &["app", "db"])],
                &[("app", &["web"]), ("db", &["app", "web"]), ("web", &[])],
            ),
            // Somebody else's VM, which this base does not stop.
            (&[("a", &["external"])], &[("a", &[])]),
        ];
        for (after, expected) in cases {
            let owned: Vec<(&str, Vec<String>)> = after
                .iter()
                .map(|(name, before)| (*name, before.iter().map(|b| (*b).to_owned()).collect()))
                .collect();
            let order: Vec<(&str, &[String])> =
                owned.iter().map(|(name, before)| (*name, before.as_slice())).collect();
            let found = followers(&order);
            let found: Vec<(&str, &[&str])> =
                found.iter().map(|(name, its)| (*name, its.as_slice())).collect();
            assert_eq!(found, expected);
        }
    }
}
