//! The thread that a device works on: so that a disk that syncs keeps neither a vCPU nor the network waiting.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::transport::Transport;
use super::{Progress, Wake};
use crate::error::{Error, Result};

/// Event data of the order to stop. Queues have their indices.
const STOP: u64 = u64::MAX;
/// Event data of the device's host side.
const BACKEND: u64 = u64::MAX - 1;

/// A device's thread. Dropped, it ends the thread and waits for it.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread of `device`.
    ///
    /// # Errors
    /// The host gives no thread or descriptors.
    pub fn start(name: &str, device: Arc<Transport>) -> Result<Self> {
        let stop =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make a device's eventfd"))?;
        let epoll = watch(&device, &stop).map_err(Error::host("watch a device's queues"))?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&device, &epoll))
            .map_err(Error::host("start a device's thread"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && self.stop.write(1).is_ok()
        {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

fn watch(device: &Transport, stop: &EventFd) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |fd: RawFd, events, data| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, data));
    add(stop.as_raw_fd(), EventSet::IN, STOP)?;
    for (index, kick) in device.kicks().iter().enumerate() {
        add(kick.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED, index as u64)?;
    }
    device.with_backend(|backend| match backend {
        // At its edges: a packet for which the guest has no buffer waits in the host without waking us again.
        Some(fd) => add(fd.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED, BACKEND),
        None => Ok(()),
    })?;
    Ok(epoll)
}

fn work(device: &Transport, epoll: &Epoll) {
    let mut events = [EpollEvent::default(); 8];
    let mut pending: Vec<Wake> = Vec::new();
    loop {
        let timeout = if pending.is_empty() { -1 } else { 0 };
        let count = match epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => return,
        };
        for event in &events[..count] {
            let wake = match event.data() {
                STOP => return,
                BACKEND => Wake::Backend,
                // Edge-triggered: the counter need not be read.
                queue => Wake::Queue(queue as usize),
            };
            if !pending.contains(&wake) {
                pending.push(wake);
            }
        }
        pending.retain(|wake| device.service(*wake) == Progress::More);
    }
}
