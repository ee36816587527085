//! What each command does.

use std::io::Write;
use std::path::{Path, PathBuf};

use base::config;
use base::control::Client;
use base::entry::{self, BaseArguments, HolderArguments, ReleaseArguments, UpArguments, exit};
use base::state_dir;

use crate::args::{Args, Command, ImageCommand, Json, PortCommand};
use crate::failure::Failure;
use crate::image::{self, Wish};
use crate::ssh::{self, Ssh};
use crate::{console, down, show, switch};

/// Carries out a command. Returns the exit status.
pub fn run(args: Args) -> Result<u8, Failure> {
    let Args { state_dir, command } = args;
    // Checking or making a file needs no place for an instance.
    let command = match command {
        Command::Check { file, json } => return check(&file, json),
        Command::Image { command: ImageCommand::Debian { file, suite, size, include } } => {
            image::debian(&Wish { file, suite, size, include })?;
            return Ok(exit::CLEAN);
        }
        other => other,
    };
    let dir = match state_dir {
        Some(dir) => dir,
        None => state_dir::default_path()?,
    };
    match command {
        // Done above.
        Command::Check { .. } | Command::Image { .. } => {}
        Command::Up { file, detach } => return up(file, dir, detach),
        Command::Holder { config, made_directory } => {
            let made_directory = made_directory == "yes";
            let arguments = HolderArguments { config, state_dir: dir, made_directory };
            return Ok(entry::detached_holder(&arguments)?);
        }
        Command::Heir => return Ok(entry::heir(&dir)?),
        Command::Base { config, accepted } => {
            let release = ReleaseArguments { config, accepted };
            let arguments = BaseArguments { state_dir: dir, release };
            return Ok(entry::base(arguments, base::instance::run));
        }
        Command::Upgrade { binary, json } => switch::upgrade(&dir, binary.as_deref(), json)?,
        Command::Reload { file, json } => switch::reload(&dir, file.as_deref(), json)?,
        Command::Down { force } => down::down(&dir, force)?,
        Command::Ps { json } => {
            let ps = Client::connect(&dir)?.ps()?;
            if json.json { show::json(&ps)? } else { show::ps(&ps)? }
        }
        Command::Counters { owner, all, json } => {
            let counters = Client::connect(&dir)?.counters(owner)?;
            if json.json { show::json(&counters)? } else { show::counters(&counters, all)? }
        }
        Command::Events { follow, json } => events(&dir, follow, json)?,
        Command::Console { vm } => {
            let place = Client::connect(&dir)?.console(&vm)?;
            console::attach(&vm, &place.socket)?;
        }
        Command::Ssh { vm, identity, login, command } => {
            let ps = Client::connect(&dir)?.ps()?;
            ssh::log_in(&ps, &vm, &Ssh { identity, login, command })?;
        }
        Command::Start { vm } => {
            Client::connect(&dir)?.start(&vm)?;
            show::done(&format!("{vm} runs"))?;
        }
        Command::Stop { vm, force } => {
            Client::connect(&dir)?.stop(&vm, force)?;
            show::done(&format!("{vm} has stopped"))?;
        }
        Command::Restart { vm, force } => {
            Client::connect(&dir)?.restart(&vm, force)?;
            show::done(&format!("{vm} runs again"))?;
        }
        Command::Port { command: PortCommand::Move { vm, worker } } => {
            Client::connect(&dir)?.port_move(&vm, worker)?;
            show::done(&format!("{vm}'s port is served by worker {worker}"))?;
        }
        Command::Port { command: PortCommand::Reset { vm } } => {
            let reset = Client::connect(&dir)?.port_reset(&vm)?;
            show::done(&match reset.was {
                Some(why) => format!("{vm}'s port goes on; it was quarantined because {why}"),
                None => format!("{vm}'s port was not quarantined: nothing to do"),
            })?;
        }
    }
    Ok(exit::CLEAN)
}

fn up(file: PathBuf, state_dir: PathBuf, detach: bool) -> Result<u8, Failure> {
    while let Some(holder) = state_dir::holder_process(&state_dir).ok().flatten() {
        if let Some(status) = switch::up_again(&state_dir, &file, holder)? {
            return Ok(status);
        }
    }
    let arguments = UpArguments { config: file, state_dir };
    if !detach {
        return Ok(entry::up(&arguments)?);
    }
    let detached = entry::up_detached(&arguments)?;
    let dir = detached.state_dir.display();
    show::done(&format!("runs (process {}, state in {dir})", detached.holder))?;
    Ok(exit::CLEAN)
}

fn check(file: &Path, json: Json) -> Result<u8, Failure> {
    let checked = config::load(file);
    if json.json {
        show::json(&show::CheckReport::of(file, &checked))?;
        let status = if checked.is_ok() { exit::CLEAN } else { exit::CONFIGURATION };
        return Ok(status);
    }
    let (_, config) = checked.map_err(|errors| Failure::configuration(errors.to_string()))?;
    show::done(&format!(
        "{}: right, with {} and {}",
        file.display(),
        show::number(config.networks.len(), "network"),
        show::number(config.vms.len(), "VM"),
    ))?;
    Ok(exit::CLEAN)
}

fn events(dir: &Path, follow: bool, json: Json) -> Result<(), Failure> {
    let mut client = Client::connect(dir)?;
    let mut out = anstream::stdout().lock();
    let mut show =
        |event: &_| if json.json { show::json(event) } else { show::event(&mut out, event) };
    if !follow {
        return client.events()?.iter().try_for_each(|event| Ok(show(event)?));
    }
    for event in client.follow_events()? {
        show(&event?)?;
    }
    drop(out.flush());
    Ok(())
}
