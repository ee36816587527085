//! A contender that is a thread of this program, on the switching core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::Result;
use lab::error::Attempt;

use super::{SWITCHING, pin};

const RUN: u8 = 0;
const REST: u8 = 1;
const END: u8 = 2;

/// The thread, ended when dropped.
pub struct Thread {
    order: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// A thread that takes one step of its work after the other; a step tells whether there was
    /// something to do.
    pub fn start(name: &str, step: impl FnMut() -> bool + Send + 'static) -> Result<Self> {
        let order = Arc::new(AtomicU8::new(RUN));
        let told = order.clone();
        let work = move || {
            if pin(None, SWITCHING).is_ok() {
                run(&told, step);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = Some(thread.attempt(|| format!("start the thread {name}"))?);
        Ok(Self { order, thread })
    }

    /// Stops it after the step that it takes.
    pub fn pause(&self) {
        self.order.store(REST, Ordering::Relaxed);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.order.store(RUN, Ordering::Relaxed);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.order.store(END, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, it has said so, and nothing arrives.
            let _ = thread.join();
        }
    }
}

fn run(order: &AtomicU8, mut step: impl FnMut() -> bool) {
    loop {
        match order.load(Ordering::Relaxed) {
            RUN if step() => {}
            RUN => std::hint::spin_loop(),
            REST => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}
