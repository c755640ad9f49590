//! What can be asked: a file for each resource, with its part of the table of routes.

mod audit;
pub mod console;
mod description;
mod events;
mod guests;
mod node;
mod orders;
mod stats;
mod tasks;

use super::routes::Route;

/// All routes.
pub const ALL: &[&[Route]] = &[
    node::ROUTES,
    guests::ROUTES,
    stats::ROUTES,
    orders::ROUTES,
    console::ROUTES,
    events::ROUTES,
    tasks::ROUTES,
    audit::ROUTES,
    description::ROUTES,
];
