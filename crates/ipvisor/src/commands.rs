//! What each command does.

use std::io::Write;
use std::path::{Path, PathBuf};

use base::config;
use base::control::Client;
use base::entry::{self, BaseArguments, HolderArguments, ReleaseArguments, UpArguments, exit};
use base::state_dir;

use crate::args::{Args, Command, ImageCommand, Json, PortCommand};
use crate::difference::{self, Manner};
use crate::failure::Failure;
use crate::image::{self, Wish};
use crate::ssh::{self, Ssh};
use crate::{console, doctor, down, logs, rates, show, switch, top};

/// Carries out a command. Returns the exit status.
pub fn run(args: Args) -> Result<u8, Failure> {
    let Args { state_dir, command } = args;
    // Asked for where it is needed: some commands have none, and may not be able to find one.
    let dir = || state_dir.map_or_else(state_dir::default_path, Ok);
    match command {
        Command::Check { file, elsewhere, json } => return check(&file, elsewhere, json),
        Command::Schema => show::text(&config::schema::text())?,
        Command::Image { command: ImageCommand::Debian { file, suite, size, include } } => {
            image::debian(&Wish { file, suite, size, include })?;
        }
        Command::Resolver { base } => return Ok(base::resolver::run(base)),
        Command::Doctor { file, json } => return doctor::examine(file.as_deref(), dir(), json),
        Command::Up { file, detach, dry_run, json } => {
            return up(file, dir()?, detach, Manner { dry_run, json: json.json });
        }
        Command::Holder { config, made_directory } => {
            let made_directory = made_directory == "yes";
            let arguments = HolderArguments { config, state_dir: dir()?, made_directory };
            return Ok(entry::detached_holder(&arguments)?);
        }
        Command::Heir => return Ok(entry::heir(&dir()?)?),
        Command::Base { config, accepted } => {
            let release = ReleaseArguments { config, accepted };
            let arguments = BaseArguments { state_dir: dir()?, release };
            return Ok(entry::base(arguments, base::instance::run));
        }
        Command::Upgrade { binary, json } => {
            switch::upgrade(
                &dir()?,
                binary.as_deref(),
                Manner { dry_run: false, json: json.json },
            )?;
        }
        Command::Reload { file, dry_run, json } => {
            switch::reload(&dir()?, file.as_deref(), Manner { dry_run, json: json.json })?;
        }
        Command::Down { force } => down::down(&dir()?, force)?,
        Command::Ps { json } => {
            let mut client = Client::connect(&dir()?)?;
            let ps = client.ps()?;
            if json.json {
                show::json(&ps)?;
            } else {
                show::ps(&ps, &rates::look_again(&mut client, &ps))?;
            }
        }
        Command::Top => top::top(&dir()?)?,
        Command::Counters { owner, all, json } => {
            let counters = Client::connect(&dir()?)?.counters(owner)?;
            if json.json { show::json(&counters)? } else { show::counters(&counters, all)? }
        }
        Command::Events { follow, json } => events(&dir()?, follow, json)?,
        Command::Console { vm, take, watch, escape } => {
            let place = Client::connect(&dir()?)?.console(&vm)?;
            console::attach(&vm, &place, console::Manner { watch, take, escape })?;
        }
        Command::Logs { vm, follow, lines } => logs::logs(&dir()?, vm.as_deref(), lines, follow)?,
        Command::Ssh { vm, identity, login, command } => {
            let ps = Client::connect(&dir()?)?.ps()?;
            ssh::log_in(&ps, &vm, &Ssh { identity, login, command })?;
        }
        Command::Start { vm } => {
            Client::connect(&dir()?)?.start(&vm)?;
            show::done(&format!("{vm} runs"))?;
        }
        Command::Stop { vm, force } => {
            Client::connect(&dir()?)?.stop(&vm, force)?;
            show::done(&format!("{vm} has stopped"))?;
        }
        Command::Restart { vm, force } => {
            Client::connect(&dir()?)?.restart(&vm, force)?;
            show::done(&format!("{vm} runs again"))?;
        }
        Command::Port { command: PortCommand::Move { vm, worker } } => {
            Client::connect(&dir()?)?.port_move(&vm, worker)?;
            show::done(&format!("{vm}'s port is served by worker {worker}"))?;
        }
        Command::Port { command: PortCommand::Reset { vm } } => {
            let reset = Client::connect(&dir()?)?.port_reset(&vm)?;
            show::done(&match reset.was {
                Some(why) => format!("{vm}'s port goes on; it was quarantined because {why}"),
                None => format!("{vm}'s port was not quarantined: nothing to do"),
            })?;
        }
    }
    Ok(exit::CLEAN)
}

fn up(file: PathBuf, state_dir: PathBuf, detach: bool, manner: Manner) -> Result<u8, Failure> {
    while let Some(holder) = state_dir::holder_process(&state_dir).ok().flatten() {
        if let Some(status) = switch::up_again(&state_dir, &file, holder, manner)? {
            return Ok(status);
        }
    }
    if manner.dry_run {
        difference::of_beginning(&file, manner)?;
        return Ok(exit::CLEAN);
    }
    let arguments = UpArguments { config: file, state_dir };
    if !detach {
        return Ok(entry::up(&arguments)?);
    }
    let detached = entry::up_detached(&arguments)?;
    if manner.json {
        switch::show_begun(&detached.state_dir, &arguments.config)?;
        return Ok(exit::CLEAN);
    }
    let dir = detached.state_dir.display();
    show::done(&format!("runs (process {}, state in {dir})", detached.holder))?;
    Ok(exit::CLEAN)
}

fn check(file: &Path, elsewhere: bool, json: Json) -> Result<u8, Failure> {
    let checked = if elsewhere { config::load_for_any_machine(file) } else { config::load(file) };
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
