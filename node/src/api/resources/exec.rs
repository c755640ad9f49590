//! Commands in a guest: the connection becomes one (RFC 9110, 7.8), and says what [`thimble_spec::exec`] says.

use std::time::Duration;

use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use thimble_spec::api::EXEC_PROTOCOL;
use thimble_spec::api::guest::State;
use thimble_spec::console::one_line;
use thimble_spec::exec::{Command, Frame, Frames, NOT_RUN};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::answer::Content;
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::commands;
use crate::plan::Place;

/// Commands at a time, in all guests.
pub const COMMANDS_MAX: usize = 32;
/// How long a client may take to say what is to be run.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a command that are remembered.
const AUDITED: usize = 400;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::POST,
    path: "/v1/guests/{name}/exec",
    role: Role::Admin,
    summary: "Run a command in a guest, as its root, where its definition lets commands in",
    query: &[],
    gives: Gives::Connection(EXEC_PROTOCOL),
    serve: |call| Box::pin(open(call)),
}];

async fn open(mut call: Call) -> Result<Response<Content>, Refusal> {
    call.becomes(EXEC_PROTOCOL, "a command in a guest")?;
    let entry = call.api.guest(call.name())?;
    let name = entry.name.to_string();
    if !entry.guest().commands {
        let sentence = format!("no commands run in guest {name}: `commands = true` in its definition lets them in");
        return Err(Refusal::conflict(sentence));
    }
    let state = entry.life.borrow().state;
    if state != State::Running {
        return Err(Refusal::conflict(format!("guest {name} is {state}: commands run in one that runs")));
    }
    let place = call.api.commands.clone().try_acquire_owned();
    let place = place.map_err(|_| Refusal::busy("so many commands run in guests already: wait for one to end"))?;
    let connected = commands::connect(&Place::of(&name).vsock()).await;
    let guest = connected.map_err(|error| Refusal::conflict(format!("guest {name} takes no commands: {error:#}")))?;
    let (api, who) = (call.api.clone(), call.peer.who.clone());
    let audited = move |command: &Command| {
        let words: Vec<String> = command.arguments.iter().map(|word| format!("{word:?}")).collect();
        let what = format!("run in guest {name}: {}", one_line(&words.join(" "), AUDITED));
        api.audit.remember(&who, &what, None)
    };
    Ok(call.switch(EXEC_PROTOCOL, |client| async move {
        pass_on(TokioIo::new(client), guest, audited).await;
        drop(place);
    }))
}

/// Passes on what both say until either ends, but nothing before the command is remembered.
async fn pass_on(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut guest: UnixStream,
    audited: impl Fn(&Command) -> anyhow::Result<()>,
) {
    let Ok(Some((frame, rest))) = timeout(COMMAND_LIMIT, first(&mut client)).await else { return };
    let Frame::Run(command) = &frame else { return };
    if let Err(error) = audited(command) {
        let refused = Frame::Refused(NOT_RUN, format!("{error:#}"));
        // One that is gone needs no reason.
        let _ = client.write_all(&refused.write().unwrap_or_default()).await;
        return;
    }
    let mut said = frame.write().unwrap_or_default();
    said.extend(rest);
    if guest.write_all(&said).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut guest).await;
    }
}

/// The first frame, and what came behind it.
async fn first(client: &mut (impl AsyncRead + Unpin)) -> Option<(Frame, Vec<u8>)> {
    let mut frames = Frames::default();
    let mut piece = [0; 4096];
    loop {
        if let Some(frame) = frames.take().ok()? {
            return Some((frame, frames.rest()));
        }
        let count = client.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        frames.feed(&piece[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What a guest is sent when a client says that, and what is remembered.
    async fn passed(said: &[u8], audit_works: bool) -> (Vec<u8>, Vec<u8>, Vec<String>) {
        let (mut client, ours) = tokio::io::duplex(1 << 16);
        let (mut guest, theirs) = UnixStream::pair().unwrap();
        let remembered = Mutex::new(Vec::new());
        let audited = |command: &Command| {
            anyhow::ensure!(audit_works, "the disk is full");
            remembered.lock().unwrap().push(command.arguments.join(" "));
            Ok(())
        };
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let answers = async {
            let mut heard = Vec::new();
            guest.read_to_end(&mut heard).await.unwrap();
            let _ = guest.write_all(b"x\x01\0\0").await;
            drop(guest);
            heard
        };
        let ((), heard) = tokio::join!(pass_on(ours, theirs, audited), answers);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        (heard, told, remembered.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_command_is_remembered_and_passed_on() {
        let command = Command { arguments: ["ls", "-l"].map(str::to_owned).into(), ..Command::default() };
        let said = [Frame::Run(command), Frame::Input(b"x".to_vec())].map(|it| it.write().unwrap()).concat();
        let (heard, told, remembered) = passed(&said, true).await;
        assert_eq!((heard, told, remembered), (said.clone(), b"x\x01\0\0".to_vec(), vec!["ls -l".to_owned()]));
        // What cannot be remembered is not run.
        let (heard, told, _) = passed(&said, false).await;
        let refused = Frame::Refused(NOT_RUN, "the disk is full".to_owned());
        assert_eq!((heard, told), (vec![], refused.write().unwrap()));
        // Nor is what is none.
        for said in [b"".as_slice(), b"i\x01\0x", b"GET / HTTP/1.1\r\n"] {
            assert_eq!(passed(said, true).await, (vec![], vec![], vec![]));
        }
    }
}
