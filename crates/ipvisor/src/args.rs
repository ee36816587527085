//! What can be typed.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Args as ClapArgs, Parser, Subcommand};

use base::control::CounterOwner;

use crate::console::escape::Escape;

const EXAMPLES: &str = "\
Examples:
  ipvisor check net.toml           is the configuration right?
  ipvisor doctor net.toml          is the machine ready for it?
  ipvisor up net.toml              run it here; Ctrl-C ends it
  ipvisor up net.toml --detach     run it and come back
  ipvisor ps                       what runs
  ipvisor top                      what it does, as it goes on
  ipvisor console web              the screen and keyboard of VM web; Ctrl-] leaves
  ipvisor logs web -f              what its screen shows
  ipvisor counters web             where its datagrams went
  ipvisor reload                   go on with what is in the file now
  ipvisor reload --dry-run         only show what that would change
  ipvisor down                     end everything

A configuration is a network and VMs on it:
  [network.lan]
  uplink   = \"eth1\"
  prefixes = [\"203.0.113.0/24\"]
  gateway  = [\"203.0.113.1\"]

  [vm.web]
  kernel    = \"vmlinuz\"
  initramfs = \"initramfs.img\"
  memory    = \"512M\"
  addresses = [\"203.0.113.10\"]";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Virtual machines that are simply on the network.
#[derive(Debug, Parser)]
#[command(
    name = "ipvisor",
    version,
    after_help = EXAMPLES,
    styles = STYLES,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// Where the instance keeps its sockets; one directory per instance
    /// [default: /run/ipvisor for root, else $XDG_RUNTIME_DIR/ipvisor]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the networks and VMs of a configuration
    #[command(after_help = "\
VMs are started at the same time, but for those that are `after` others in the configuration.
Without --detach it stays in the foreground: Ctrl-C ends the VMs, those that are `after` others
first; a second one kills all at once.
Several instances may run beside each other, each with its own --state-dir. Where one runs already,
it goes on with this configuration and this program, as by `reload` and `upgrade`: what will change
is shown first. --json goes with --detach or --dry-run: what came of it, for programs.")]
    Up {
        /// The configuration
        file: PathBuf,
        /// Come back when the networks are there and the first VMs are being started
        #[arg(short, long)]
        detach: bool,
        /// Only show what would be started or changed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Go on with another version of this program; VMs and their connections do not notice
    #[command(after_help = "\
The next base starts beside the one that runs, checks itself and takes over. If it does not come up,
the one that runs goes on; if it dies again and again soon after, the one before takes over.")]
    Upgrade {
        /// Its file [default: this program's own]
        binary: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Go on with another configuration
    #[command(after_help = "\
Addresses, MTU, name servers, gateways, restart policies change under running VMs, and new VMs are
started. What a VM was formed with (CPUs, memory, disks, kernel, network, MAC address) changes only
while it is stopped, and a VM that is not in the file any more must have been stopped. If anything is
wrong, nothing changes. What will change is shown before it does:

  + vm/db is started
  ~ vm/web changes: mtu 1500 -> 1400
  - vm/port loses its port
  ! vm/mail needs a restart: memory 512M -> 1G (it runs: `ipvisor stop mail` first)")]
    Reload {
        /// The configuration [default: the file of `up`, or of the last reload]
        file: Option<PathBuf>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// End the VMs, remove routes and filters, and end
    Down {
        /// Kill the VMs instead of pressing their power buttons
        #[arg(short, long)]
        force: bool,
    },
    /// Show the networks and VMs
    Ps {
        #[command(flatten)]
        json: Json,
    },
    /// Watch what the VMs use and carry, on the whole screen; q leaves
    #[command(after_help = "\
Keys: n, c, m, o, i, d sort by name, CPU, memory, datagrams out, in and dropped; r turns the order
round; arrows and page keys scroll; q leaves. NO_COLOR=1 leaves the colours out.")]
    Top,
    /// Show where datagrams went: delivered, sent, answered, or dropped and why
    #[command(after_help = "\
Examples:
  ipvisor counters                 of all
  ipvisor counters web             of VM web
  ipvisor counters uplink/lan      of the card of network lan
  ipvisor counters host/lan        of the host's own path into network lan
  ipvisor counters --json | jq '.[].counters[\"drop.source_not_own\"]'")]
    Counters {
        /// Whose: a VM's name, uplink/NETWORK or host/NETWORK
        owner: Option<CounterOwner>,
        /// Those that are zero too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show what has happened lately
    Events {
        /// Go on with what happens from now
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Sit at a VM's serial console; Ctrl-] leaves
    #[command(after_help = "\
What was shown last is shown first (64 KiB). One types; whoever comes later watches. Where nothing is
to be typed, `ipvisor logs VM` does as well.
A serial line does not say how large the terminal is: type `stty rows 50 cols 200` in the guest for
programs that fill the screen. What comes from a file or pipe is typed as it is, without a key that
leaves.")]
    Console {
        /// The VM
        vm: String,
        /// Take the keyboard from whoever has it; they watch from then on
        #[arg(short, long, conflicts_with = "watch")]
        take: bool,
        /// Only watch
        #[arg(short, long)]
        watch: bool,
        /// The key that leaves, written as ^] or ^a; `none`: no key does
        #[arg(short, long, value_name = "KEY", default_value = "^]")]
        escape: Escape,
    },
    /// Show what a VM's console has shown, or what the instance has to say
    #[command(after_help = "\
Of a VM: since its process was started, and the end of what was before. Kept until `down`; when there
are more than 8 MiB, the last one is kept, beside what follows.
A terminal gets the text alone; a file or a pipe all octets, sequences for terminals as well.
Without a VM: the messages of an instance that was started with --detach.")]
    Logs {
        /// The VM
        vm: Option<String>,
        /// Go on with what is added from now
        #[arg(short, long)]
        follow: bool,
        /// Only the last ones
        #[arg(short = 'n', long, value_name = "NUMBER")]
        lines: Option<usize>,
    },
    /// Log in to a VM by SSH, at the address that it has
    #[command(after_help = "\
Examples:
  ipvisor ssh web
  ipvisor ssh web -i key -- uptime

It runs `ssh` from this machine: the VM must be reachable from here.")]
    Ssh {
        /// The VM
        vm: String,
        /// A private key [default: those that ssh tries by itself]
        #[arg(short, long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// The account [default: `user` of the configuration, else ssh's own choice]
        #[arg(short, long)]
        login: Option<String>,
        /// What to run there instead of a shell
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Start a VM that was stopped
    Start {
        /// The VM
        vm: String,
    },
    /// Stop a VM: by its power button, and by force if that takes too long
    Stop {
        /// The VM
        vm: String,
        /// By force at once
        #[arg(short, long)]
        force: bool,
    },
    /// Stop a VM and start it again
    Restart {
        /// The VM
        vm: String,
        /// By force at once
        #[arg(short, long)]
        force: bool,
    },
    /// Do something about a VM's port
    Port {
        /// What to do with it.
        #[command(subcommand)]
        command: PortCommand,
    },
    /// Say whether a configuration is right, and start nothing
    #[command(after_help = "\
It is held against this machine: its network cards and addresses, its CPUs and memory, and the files
that the configuration names.")]
    Check {
        /// The configuration
        file: PathBuf,
        /// It is for another machine: this one's cards, CPUs, memory and files do not matter
        #[arg(long)]
        elsewhere: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Print the configuration's JSON Schema, for editors
    #[command(after_help = "\
  ipvisor schema > ipvisor.schema.json

An editor with Taplo (VS Code's \"Even Better TOML\", Helix, Neovim) completes and checks a file whose
first line is:
  #:schema ./ipvisor.schema.json")]
    Schema,
    /// Say what on this machine is in the way, and what to do about it
    #[command(after_help = "\
One line for each thing that was looked at: ok, warning or error, what was found, and after an arrow
what to do. Without a file, what any configuration might need is looked at; with one, what it needs,
its cards, and whether its gateways answer. Nothing is changed. The exit status is 1 if there is an
error. Run it as the user who will run ipvisor.")]
    Doctor {
        /// The configuration that is to run here
        file: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Make a disk image that VMs can start from
    Image {
        /// Of what.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// The holder of a detached instance.
    #[command(name = "__holder", hide = true)]
    Holder {
        /// The configuration, absolute.
        #[arg(long)]
        config: PathBuf,
        /// Whether `up` made the state directory.
        #[arg(long, value_parser = ["yes", "no"])]
        made_directory: String,
    },
    /// A holder in the place of one that died.
    #[command(name = "__heir", hide = true)]
    Heir,
    /// Answers the guests' DNS.
    #[command(name = "__resolver", hide = true)]
    Resolver {
        /// The base's process.
        #[arg(long)]
        base: u32,
    },
    /// The base.
    #[command(name = "__base", hide = true)]
    Base {
        /// The configuration, absolute.
        #[arg(long)]
        config: PathBuf,
        /// The name of the copy of it that was accepted.
        #[arg(long)]
        accepted: String,
    },
}

/// Commands about a VM's port.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Have a VM's port served by another of the workers
    #[command(after_help = "\
Workers are numbered from 0; how many there are says `workers` in the configuration. Nothing is lost
or overtaken on the way. `ipvisor ps` shows which worker has which port. A base that takes over
places all ports anew.")]
    Move {
        /// The VM
        vm: String,
        /// The worker's number
        worker: usize,
    },
    /// Let a port go on that is quarantined because ipvisor's base process died of it twice
    #[command(after_help = "\
What the base died of (one datagram, or one receive buffer) is left out; everything else in the
port's rings goes on. Where it was a request of the front end, that may connect again.
`ipvisor ps` shows which ports are quarantined, and why.")]
    Reset {
        /// The VM
        vm: String,
    },
}

/// Kinds of image.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Debian, from its archive: systemd, cloud-init and SSH, started by BIOS or UEFI
    #[command(after_help = "\
Needs root, and the packages mmdebstrap, fdisk and e2fsprogs; qemu-utils for qcow2. Nothing is mounted.
A VM with `disk = { image = FILE }` starts from a clone of it; `ssh_keys` says who may log in.

Example:
  ipvisor image debian debian.qcow2 --include nginx,tcpdump")]
    Debian {
        /// The image to be made: qcow2 if its name ends so, else raw
        file: PathBuf,
        /// Which Debian
        #[arg(long, value_name = "NAME", default_value = "bookworm")]
        suite: String,
        /// Its disk; clones may be larger
        #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = base::config::disk_size)]
        size: u64,
        /// More packages
        #[arg(long, value_name = "PACKAGES", value_delimiter = ',')]
        include: Vec<String>,
    },
}

/// For commands that show something.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Json {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_state_directory_can_be_named_before_and_after_the_command() {
        for line in [["--state-dir", "/x", "ps"], ["ps", "--state-dir", "/x"]] {
            let args = Args::try_parse_from(["ipvisor"].into_iter().chain(line)).unwrap();
            assert_eq!(args.state_dir, Some("/x".into()));
        }
    }

    #[test]
    fn a_wrong_owner_of_counters_is_refused_with_what_to_write() {
        let error = Args::try_parse_from(["ipvisor", "counters", "card/lan"]).unwrap_err();
        assert!(error.to_string().contains("write a VM's name, `uplink/NETWORK`"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn hidden_commands_are_not_in_the_help() {
        let help = Args::command().render_long_help().to_string();
        assert!(!help.contains("__"), "{help}");
        assert!(help.contains("ipvisor console web"), "{help}");
    }
}
