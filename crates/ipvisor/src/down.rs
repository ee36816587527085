//! `down`: asks the base, or its holder if the base does not listen, and waits until all is gone.

use std::path::Path;
use std::time::Duration;

use base::control::{Client, ClientError};
use base::holder::process::wait_for_end;
use base::state_dir::holder_process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::{Failure, tell};
use crate::show;

/// How long the base has to say that it has heard.
const HEARING: Duration = Duration::from_secs(10);
/// Between two demands of the same kind, so that they count as two.
const PAUSE: Duration = Duration::from_millis(300);

/// Ends the instance with this state directory.
pub fn down(dir: &Path, force: bool) -> Result<(), Failure> {
    let not_running = || ClientError::NotRunning { state_dir: dir.to_owned() };
    let number = holder_process(dir)?.ok_or_else(not_running)?;
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(not_running)?;
    let Ok(holder) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Err(Failure::new("the instance is ending already"));
    };
    // Asked again now that the pidfd is open: it is the holder's and no later process's.
    if holder_process(dir)? != Some(number) {
        return Err(Failure::new("the instance is ending already"));
    }
    let signal = |signal| {
        pidfd_send_signal(&holder, signal)
            .map_err(|e| Failure::new(format!("cannot signal the holder (process {number}): {e}")))
    };
    let asked = Client::connect(dir).and_then(|mut client| {
        client.set_patience(HEARING)?;
        client.down()
    });
    match asked {
        Ok(()) => {}
        Err(error @ ClientError::NotAllowed { .. }) => return Err(error.into()),
        // The base is on its way down, up or out: the holder knows what to do.
        Err(_) => signal(Signal::TERM)?,
    }
    if force {
        std::thread::sleep(PAUSE);
        // Gone already is as good.
        let _ = signal(Signal::TERM);
    }
    if !wait_for_end(&holder, Duration::from_secs(2)) {
        tell("waiting for the VMs to stop; `ipvisor down --force` kills them");
        wait_for_end(&holder, Duration::MAX);
    }
    show::done("down")?;
    Ok(())
}
