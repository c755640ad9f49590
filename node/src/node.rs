//! The daemon as a whole: reads the appliance, keeps every guest, and stops them when it is told to.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use thimble_spec::appliance::{ApiListener, Appliance, Guest};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::json::Json;
use thimble_spec::paths;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{self, Api};
use crate::definitions::{Book, Store};
use crate::guest::{Host, Keeper};
use crate::objects::Objects;
use crate::readiness::Signs;
use crate::{audit, heartbeat, hugepages, overcommit, say, snapshots};

/// On the host's kernel command line: copy the guests' consoles to the host's. A guest can flood the console then, so
/// it is for tests and for looking what is wrong.
const COPY_CONSOLES: &str = "thimble.guest-consoles";

/// Reads the appliance.
///
/// # Errors
/// It cannot be read, or is none.
pub fn appliance(path: &Path) -> Result<Appliance> {
    let json = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Appliance::from_json(&json).with_context(|| format!("{} is no appliance", path.display()))
}

/// Runs until SIGTERM or SIGINT, then shuts the guests down.
///
/// # Errors
/// The appliance cannot be read; the kernel offers no netlink.
pub async fn run(appliance: &Path) -> Result<()> {
    let appliance = Arc::new(self::appliance(appliance)?);
    let cmdline = Cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let copy_console = cmdline.has(COPY_CONSOLES);
    let (connection, network, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    let (stop, stopping) = watch::channel(false);

    let book = Book::open(Arc::clone(&appliance), Store::open());
    let defined = book.guests();
    let guests: Vec<Guest> = defined.iter().map(|it| (*it.guest).clone()).collect();
    snapshots::clear_up(&book, &guests);
    for note in [overcommit::note(&guests), hugepages::set_aside(&guests)].into_iter().flatten() {
        say::note(&note);
    }
    // A release is judged by the guests that it brings, as far as they start by themselves: not by what else is on the node.
    let of_image = guests.iter().filter(|guest| book.of_image(&guest.name).is_some());
    let signs = Signs::of(of_image);
    signs.look();
    let objects = Objects::open(&cmdline);
    let (storage, limits) = (Arc::new(appliance.storage.clone()), overcommit::Limits::of(&appliance));
    let host = Host { network, storage, objects, limits, signs, copy_console };
    let (api, mut posts) = Api::of(book, defined, audit::Log::open());
    let mut keepers = JoinSet::new();
    let keep = |post| Keeper::new(post, host.clone(), stopping.clone()).keep();
    while let Ok(post) = posts.try_recv() {
        keepers.spawn(keep(post));
    }
    if let Some(watchdog) = appliance.host.watchdog {
        tokio::spawn(heartbeat::beat_for_ever(watchdog, Path::new(paths::HOST_CONTROL)));
    }
    let listener = appliance.host.api;
    let api = Arc::new(api);
    let api = tokio::spawn(async move {
        api.known().await;
        // Both end with the task that holds them.
        let mut network = JoinSet::new();
        if let Some(settings) = listener {
            network.spawn(over_the_network(settings, Arc::clone(&api)));
            // Nobody sees a curve on the host itself.
            network.spawn(api::history::sample(Arc::clone(&api)));
        }
        match api::bind(Path::new(paths::NODE_API)) {
            Ok(listener) => api::serve(listener, api).await,
            Err(error) => say::error(&format!("nobody can ask the node daemon: {error:#}")),
        }
        while network.join_next().await.is_some() {}
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    fs::write(paths::NODE_READY, "").with_context(|| format!("writing {}", paths::NODE_READY))?;

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Guests come and go.
            Some(post) = posts.recv() => drop(keepers.spawn(keep(post))),
            Some(_) = keepers.join_next() => {}
        }
    }
    // Receivers are the keepers'; without any there is nobody to tell.
    let _ = stop.send(true);
    while keepers.join_next().await.is_some() {}
    api.abort();
    Ok(())
}

async fn over_the_network(settings: ApiListener, api: Arc<Api>) {
    match api::tls::config(api::tls::Files::of_the_build()) {
        Ok(config) => api::tls::serve(api::tls::bind(&settings).await, config, api).await,
        Err(error) => say::error(&format!("nobody can ask the node daemon over the network: {error:#}")),
    }
}
