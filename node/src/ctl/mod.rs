//! `thimblectl`: what an administrator asks a node with. It is another name of the daemon's program, and a client of its API
//! like any other ([`crate::api`]). A file for each kind of words.

mod act;
pub mod client;
mod clone;
mod console;
mod define;
mod edit;
mod event;
mod exec;
mod failure;
mod hosts;
mod log;
mod machine;
mod raw;
mod remote;
mod report;
mod shell;
mod show;
mod snapshots;
mod table;
mod task;
mod top;
mod update;
mod volumes;
pub mod words;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::time::timeout;

use client::Client;
use failure::Failure;
use words::{Cli, Exec, Word};

/// How long the node may take to answer when nothing is said.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.word {
        Word::Completion { shell } => shell::completion(*shell).map(|()| ExitCode::SUCCESS),
        _ => converse(&cli),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("thimblectl: {failure}");
            failure.code()
        }
    }
}

fn converse(cli: &Cli) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("starting the event loop: {error}")))?;
    let outcome = runtime.block_on(async {
        match &cli.place.hosts {
            Some(list) => hosts::run(list, &cli.word, cli.json).await,
            None => match &cli.word {
                Word::Exec(exec) => command(cli, exec).await.map_err(Failure::of_command),
                _ => carry_out(cli).await.map(|()| ExitCode::SUCCESS),
            },
        }
    });
    // A thread may still wait for a key.
    runtime.shutdown_background();
    outcome
}

async fn command(cli: &Cli, exec: &Exec) -> Result<ExitCode, Failure> {
    let client = Client::of(&cli.place)?;
    let run = exec::run(&client, exec);
    match cli.timeout.map(Duration::from_secs) {
        Some(limit) => timeout(limit, run).await.unwrap_or_else(|_| Err(Failure::late("the command was given up"))),
        None => run.await,
    }
}

async fn carry_out(cli: &Cli) -> Result<(), Failure> {
    let client = Client::of(&cli.place)?;
    let limit = cli.timeout.map(Duration::from_secs);
    match &cli.word {
        // Somebody thinks about it.
        Word::Edit { guest } => edit::run(&client, guest, cli.json).await,
        Word::Act(verb, guests) => act::run(&client, *verb, guests, limit.unwrap_or(ANSWER_LIMIT), cli.json).await,
        // A disk may be large.
        Word::Clone(of) => clone::run(&client, of, limit, cli.json).await,
        word @ (Word::SnapshotCreate { .. } | Word::SnapshotRevert { .. }) => {
            snapshots::make(&client, word, limit, cli.json).await
        }
        // A line may be slow.
        Word::Update { file, reboot, live } => {
            let sent = update::run(&client, file, [("reboot", *reboot), ("live", *live), ("json", cli.json)]);
            match limit {
                Some(limit) => {
                    timeout(limit, sent).await.unwrap_or_else(|_| Err(Failure::late("the update was given up")))
                }
                None => sent.await,
            }
        }
        // These go on until they are ended: a limit ends them as it was wanted to.
        Word::Event { after, count } => within(limit, event::run(&client, after.as_deref(), *count, cli.json)).await,
        Word::Top { delay, count } => {
            within(limit, top::run(&client, Duration::from_secs(*delay), *count, cli.json)).await
        }
        Word::Console { guest, read_only, force } => {
            within(limit, console::run(&client, guest, *read_only, *force)).await
        }
        word => match timeout(limit.unwrap_or(ANSWER_LIMIT), ask(&client, word, cli.json)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::late("the node does not answer in time")),
        },
    }
}

async fn ask(client: &Client, word: &Word, json: bool) -> Result<(), Failure> {
    if word.defines() { define::run(client, word, json).await } else { show::run(client, word, json).await }
}

async fn within(limit: Option<Duration>, what: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    match limit {
        Some(limit) => timeout(limit, what).await.unwrap_or(Ok(())),
        None => what.await,
    }
}

#[cfg(test)]
mod manual;
#[cfg(test)]
mod tests;
