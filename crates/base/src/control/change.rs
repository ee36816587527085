//! What another configuration would change about an instance: plain values, and a line for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One VM, network, or the instance, and what would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about: `vm/web`, `network/lan`, `instance`.
    pub subject: String,
    /// What would become of it.
    pub what: ChangeKind,
    /// Its keys whose values differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyChange>,
    /// What stands in the way; as long as it does, nothing at all is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_the_way: Option<InTheWay>,
}

/// What would become of a VM, a network or the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A VM is started.
    Start,
    /// Somebody else's VM gets its port.
    Open,
    /// A network is added, or a VM that is not started by itself.
    Add,
    /// It goes on with other values.
    Change,
    /// It must be stopped, and started again with the other values.
    Restart,
    /// Somebody else's VM loses its port.
    Shut,
    /// A network, or a VM, is removed.
    Remove,
    /// Addresses that somebody else had are asked for once more.
    Retry,
}

/// One key and its values, as they would be written in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its value now; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its value then; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether it cannot change under what runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
}

/// What stands in the way of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InTheWay {
    /// What it is about: a verb, as in "runs".
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Change {
    /// Why nothing can be changed, and what to do about it: a sentence for people.
    pub fn obstacle(&self) -> Option<String> {
        let InTheWay { why, remedy } = self.in_the_way.as_ref()?;
        let subject = match self.subject.split_once('/') {
            Some(("vm", name)) => format!("VM `{name}`"),
            Some((kind, name)) => format!("{kind} `{name}`"),
            None => format!("the {}", self.subject),
        };
        if self.what == ChangeKind::Remove {
            return Some(format!("{subject} {why} and is not in the file any more; {remedy}"));
        }
        let keys: Vec<_> = self.keys.iter().filter(|k| k.fixed).map(|k| k.key.as_str()).collect();
        Some(format!("{subject} {why}: its {} cannot change; {remedy}", keys.join(", ")))
    }
}

/// One line, its first character the sign of what would happen.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.what {
            _ if self.in_the_way.is_some() => '!',
            ChangeKind::Start | ChangeKind::Open | ChangeKind::Add => '+',
            ChangeKind::Change | ChangeKind::Restart | ChangeKind::Retry => '~',
            ChangeKind::Shut | ChangeKind::Remove => '-',
        };
        write!(f, "{sign} {}", self.subject)?;
        match self.what {
            ChangeKind::Start => f.write_str(" is started")?,
            ChangeKind::Open => f.write_str(" gets its port")?,
            ChangeKind::Add if self.subject.starts_with("vm/") => {
                f.write_str(" is added, and not started")?;
            }
            ChangeKind::Add => f.write_str(" is added")?,
            ChangeKind::Change => f.write_str(" changes")?,
            ChangeKind::Restart => f.write_str(" needs a restart")?,
            ChangeKind::Shut => f.write_str(" loses its port")?,
            ChangeKind::Remove => f.write_str(" is removed")?,
            ChangeKind::Retry => f.write_str(" asks again for what somebody else had")?,
        }
        for (i, key) in self.keys.iter().enumerate() {
            write!(f, "{}{key}", if i == 0 { ": " } else { "; " })?;
        }
        match &self.in_the_way {
            Some(InTheWay { why, remedy }) => write!(f, " (it {why}: {remedy})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to, .. } = self;
        // What stands in quotes or brackets is one value.
        let members = |value: &Option<String>| -> Vec<String> {
            let whole = |v: &&String| v.starts_with(['[', '"', '{']);
            match value.as_ref() {
                Some(one) if whole(&one) => vec![one.clone()],
                other => other.iter().flat_map(|v| v.split(", ").map(str::to_owned)).collect(),
            }
        };
        let (was, will) = (members(from), members(to));
        if was.len().max(will.len()) > 1 {
            // Of a list, what comes and what goes.
            let lacks = |list: &[String], member: &&String| !list.contains(member);
            let more = will.iter().filter(|m| lacks(&was, m)).map(|m| format!("+ {m}"));
            let less = was.iter().filter(|m| lacks(&will, m)).map(|m| format!("- {m}"));
            let both: Vec<String> = more.chain(less).collect();
            if !both.is_empty() {
                return write!(f, "{key} {}", both.join(", "));
            }
        }
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{key} {} -> {}", shown(from), shown(to))
    }
}
