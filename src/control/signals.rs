//! The signals that the admin thread handles. None of those that operators send by habit ends the balancer unasked.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    /// SIGTERM, SIGINT, and SIGQUIT as in nginx: drain and end. By the signal's name.
    Stop(&'static str),
    /// SIGHUP: the configuration is read again.
    Reload,
    /// SIGUSR1: open the access log again.
    ReopenLog,
    /// SIGUSR2: another process is to replace this one.
    Upgrade,
}

pub struct Signals([(SignalRequest, Signal); 6]);

impl Signals {
    /// Handled from now on, also before the first `next`.
    pub fn register() -> io::Result<Signals> {
        use SignalRequest::{Reload, ReopenLog, Stop, Upgrade};
        let handled = |request, kind| Ok::<_, io::Error>((request, signal(kind)?));
        Ok(Signals([
            handled(Stop("SIGTERM"), SignalKind::terminate())?,
            handled(Stop("SIGINT"), SignalKind::interrupt())?,
            handled(Stop("SIGQUIT"), SignalKind::quit())?,
            handled(Reload, SignalKind::hangup())?,
            handled(ReopenLog, SignalKind::user_defined1())?,
            handled(Upgrade, SignalKind::user_defined2())?,
        ]))
    }

    pub async fn next(&mut self) -> SignalRequest {
        poll_fn(|context| {
            for (request, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*request);
                }
            }
            Poll::Pending
        })
        .await
    }
}
