//! The base's end of a vessel's monitor: there, on its way, or not wanted.

use std::future::{Future, pending};
use std::path::PathBuf;
use std::pin::Pin;

use super::qmp::{Message, Monitor};

/// A connection on its way.
type Connecting = Pin<Box<dyn Future<Output = Monitor> + Send>>;

/// The base's end of a monitor.
pub(super) enum Link {
    /// There is no vessel to talk with.
    Down,
    /// The vessel has not greeted yet.
    Connecting(Connecting),
    /// It has.
    Up(Monitor),
}

/// What comes from a monitor.
#[derive(Debug)]
pub(super) enum News {
    /// It greeted.
    Up,
    /// It said this.
    Said(Message),
    /// It ended the conversation, or said what nobody understands.
    Lost,
}

impl Link {
    /// Connects until it succeeds.
    pub(super) fn connect(path: PathBuf) -> Self {
        Self::Connecting(Box::pin(async move { Monitor::connect(&path).await }))
    }

    /// What comes next. Cancel safe. For ever nothing while the link is down.
    pub(super) async fn next(&mut self) -> News {
        match self {
            Self::Down => pending().await,
            Self::Connecting(connecting) => {
                let monitor = connecting.await;
                *self = Self::Up(monitor);
                News::Up
            }
            Self::Up(monitor) => match monitor.next().await {
                Ok(message) => News::Said(message),
                Err(_) => News::Lost,
            },
        }
    }

    /// Says a command, if there is somebody to say it to.
    pub(super) async fn command(&mut self, name: &str) -> bool {
        match self {
            Self::Up(monitor) => monitor.command(name).await.is_ok(),
            Self::Down | Self::Connecting(_) => false,
        }
    }
}
