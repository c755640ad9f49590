//! What a guest is like from the inside, as its PID 1 says when it is asked (see [`thimble_spec::vmm::Verb::Look`]).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use thimble_spec::inside::Inside;
use thimble_spec::vmm::{Event, Verb};
use tokio::time::timeout;

use crate::control::Control;

/// How long a guest may take to answer: it has nothing to do for it but to read two files.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Asks the guest whose VMM listens there.
///
/// # Errors
/// It hears nothing now, or does not answer in time, for it has another PID 1 or is busy.
pub async fn ask(socket: &Path) -> Result<Inside> {
    let limit = ANSWER_LIMIT.as_secs();
    let seen = Control::hear(socket, Verb::Look, |event| match event {
        Event::Seen { inside } => Some(Ok(inside)),
        _ => None,
    });
    timeout(ANSWER_LIMIT, seen).await.with_context(|| format!("its PID 1 did not answer within {limit} s"))?
}
