//! What runs beside the loop for as long as it does: events of runtimes become commands, the admin API is served, worker
//! threads are waited for. Nothing is decided here.

use std::thread::JoinHandle;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;

use crate::control::admin::{AdminState, router};
use crate::control::admin_listener::AdminListener;
use crate::control::control_core::WorkerEnd;
use crate::control::registry::Command;
use crate::control::runtime::RuntimeEvent;
use crate::core::snapshot::Endpoint;

pub(super) async fn forward(mut events: UnboundedReceiver<RuntimeEvent>, commands: UnboundedSender<Command>) {
    while let Some(event) = events.recv().await {
        let _ = commands.send(Command::RuntimeEvent(event));
    }
}

pub(super) async fn serve_admin(listener: AdminListener, state: AdminState) {
    let address = match listener.endpoint() {
        Endpoint::Tcp(address) => address.to_string(),
        Endpoint::Unix(path) => path.display().to_string(),
    };
    if let Err(error) = listener.serve(router(state)).await {
        log::error!("the admin API at {address} ended: {error}");
    }
}

/// One message for each worker thread that ends.
pub(super) fn watch_workers(workers: Vec<JoinHandle<()>>) -> UnboundedReceiver<WorkerEnd> {
    let (ends, received) = unbounded_channel();
    for worker in workers {
        let ends = ends.clone();
        spawn_blocking(move || {
            let _ = ends.send(worker.join().map_or(WorkerEnd::Panicked, |()| WorkerEnd::Returned));
        });
    }
    received
}
