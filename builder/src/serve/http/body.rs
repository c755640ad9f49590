//! A part of a file on its way to a client: read piece by piece as the client takes it, so that a connection costs one piece
//! of memory and no more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::serve::board::Transfer;
use crate::serve::http::Heartbeat;

/// What is read at once. Files that are booted from are in the page cache, where reading takes microseconds: no thread.
const PIECE: u64 = 128 << 10;

/// What a response carries.
#[derive(Debug)]
pub enum Content {
    /// A sentence.
    Text(Option<Bytes>),
    /// A part of a file.
    Part(Part),
}

/// A part of a file.
#[derive(Debug)]
pub struct Part {
    file: File,
    at: u64,
    left: u64,
    sent: u64,
    transfer: Option<Transfer>,
    heartbeat: Arc<Heartbeat>,
}

impl Part {
    /// `length` bytes of `file` from `from` on.
    pub fn new(file: File, from: u64, length: u64, transfer: Transfer, heartbeat: Arc<Heartbeat>) -> Self {
        let mut part = Self { file, at: from, left: length, sent: 0, transfer: Some(transfer), heartbeat };
        part.finish_if_done();
        part
    }

    fn finish_if_done(&mut self) {
        if self.left == 0
            && let Some(transfer) = self.transfer.take()
        {
            transfer.finish();
        }
    }

    fn piece(&mut self) -> io::Result<Bytes> {
        let mut piece = vec![0; PIECE.min(self.left) as usize];
        // Shorter than it was when its length was promised: the connection ends, and the client knows that it has not all.
        if let Err(error) = self.file.read_exact_at(&mut piece, self.at) {
            if let Some(transfer) = self.transfer.take() {
                transfer.fail(format!("the file became shorter or cannot be read: {error}"));
            }
            return Err(error);
        }
        let length = piece.len() as u64;
        (self.at, self.left, self.sent) = (self.at + length, self.left - length, self.sent + length);
        if let Some(transfer) = &self.transfer {
            transfer.at(self.sent);
        }
        self.finish_if_done();
        Ok(piece.into())
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.get_mut() {
            Self::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Self::Part(part) if part.left == 0 => None,
            Self::Part(part) => {
                part.heartbeat.beat();
                Some(part.piece().map(Frame::data))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Part(part) => part.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.as_ref().map_or(0, |text| text.len() as u64),
            Self::Part(part) => part.left,
        })
    }
}
