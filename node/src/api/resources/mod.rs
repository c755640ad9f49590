//! What can be asked: a file for each resource, with its part of the table of routes.

mod audit;
mod clone;
pub mod console;
mod definition;
mod description;
mod events;
pub mod exec;
mod guests;
mod host;
mod inside;
mod metrics;
mod networks;
mod node;
mod orders;
pub mod page;
mod snapshots;
pub mod stats;
mod tasks;
mod update;
mod volumes;

use super::routes::Route;

/// All routes.
pub const ALL: &[&[Route]] = &[
    node::ROUTES,
    host::ROUTES,
    networks::ROUTES,
    guests::ROUTES,
    definition::ROUTES,
    clone::ROUTES,
    volumes::ROUTES,
    snapshots::ROUTES,
    stats::ROUTES,
    inside::ROUTES,
    exec::ROUTES,
    orders::ROUTES,
    console::ROUTES,
    events::ROUTES,
    tasks::ROUTES,
    update::ROUTES,
    audit::ROUTES,
    metrics::ROUTES,
    page::ROUTES,
    page::terminal::ROUTES,
    description::ROUTES,
];
