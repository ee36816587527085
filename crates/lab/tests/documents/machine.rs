//! The machines that the pages are about, and how a page's commands are run there.
//!
//! Each has network namespaces of its own: the host, and where it has a card a router outside, at
//! 203.0.113.1. The page's blocks are run one after the other, in one directory, with `/run` their own;
//! the first that fails ends it. The VMs have empty disks: QEMU runs them, and no system is on them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use lab::command::finish;
use lab::error::Result;
use lab::netns::{Netns, cable};
use lab::paths;

use crate::page::{Language, Mark, Page, make_files};

/// Who runs a page's commands, where it is not root.
const NOBODY: u32 = 65534;

/// What a page needs.
pub struct Machine {
    card: Option<&'static str>,
    root: bool,
}

/// The machine of a page.
pub fn of(page: &str) -> Option<Machine> {
    let with = |card| Some(Machine { card: Some(card), root: true });
    match page {
        "docs/quick-start.md"
        | "docs/recipes/provider.md"
        | "docs/recipes/home-lan.md"
        | "docs/recipes/beside-others.md" => with("eth0"),
        "docs/recipes/wifi.md" => with("wlan0"),
        "docs/recipes/without-root.md" => Some(Machine { card: None, root: false }),
        _ => None,
    }
}

/// Checks `net.toml` with the program `$0`, where `/run` is as for the pages.
pub const CHECK: &str = r#"
mount -t tmpfs run /run && mkdir /run/ports || exit 9
exec "$0" check net.toml
"#;

/// Runs the blocks; `$1` is the directory, and each further word `LINE`, whose block is `LINE.sh`.
const SCRIPT: &str = r#"
mount -t tmpfs run /run && mkdir /run/ports || exit 9
cd "$1" && shift || exit 9
for line; do
    echo "== line $line"
    $AS sh -eu "$line.sh" 2>&1
    status=$?
    if [ $status -ne 0 ]; then
        echo "line $line ended with $status"
        $AS ipvisor down --force >/dev/null 2>&1
        exit 1
    fi
done
$AS ipvisor ps >/dev/null 2>&1 || exit 0
echo "the instance was left running"
$AS ipvisor down --force >/dev/null 2>&1
exit 1
"#;

impl Machine {
    /// Runs a page's commands. What they said, or what went wrong.
    pub fn run(&self, page: &Page) -> std::result::Result<String, String> {
        self.try_run(page).map_err(|error| format!("{error:?}"))?
    }

    fn try_run(&self, page: &Page) -> Result<std::result::Result<String, String>> {
        let (host, outside) = (Netns::new()?, Netns::new()?);
        if let Some(card) = self.card {
            cable((&host, card), (&outside, "lan0"))?;
            host.run(&format!("ip addr add 203.0.113.2/24 dev {card}"))?;
            outside.run("ip addr add 203.0.113.1/24 dev lan0")?;
            host.run("ip route add default via 203.0.113.1")?;
        }
        let dir = tempfile::tempdir().unwrap();
        let lines = lay_out(page, dir.path());
        let programs = paths::programs()?;
        let search = std::env::var("PATH").unwrap_or_default();
        let mut command = host.command("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(dir.path()).args(lines);
        command.env("PATH", format!("{}:{search}", programs.display()));
        command.env("AS", "");
        if !self.root {
            let runtime = dir.path().join("runtime");
            fs::create_dir(&runtime).unwrap();
            for path in [dir.path(), &runtime] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
            }
            for file in fs::read_dir(dir.path()).unwrap() {
                chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.env("XDG_RUNTIME_DIR", &runtime);
            command.env("AS", format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"));
        }
        let end = finish(&mut command)?;
        let said = end.stdout + &end.stderr;
        Ok(if end.status.success() { Ok(said) } else { Err(said) })
    }
}

/// Writes the page's files and its blocks; gives the lines of these.
fn lay_out(page: &Page, dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for block in &page.blocks {
        match (block.language, &block.mark) {
            (Language::Toml, Mark::File(name)) => {
                make_files(&block.text, dir);
                fs::write(dir.join(name), &block.text).unwrap();
            }
            (Language::Commands, Mark::None) => {
                let line = block.line.to_string();
                fs::write(dir.join(format!("{line}.sh")), &block.text).unwrap();
                lines.push(line);
            }
            _ => {}
        }
    }
    lines
}
