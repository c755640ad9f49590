//! The thread that a lane works on: so that a disk that syncs keeps neither a vCPU nor the network waiting.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::lane::Work;
use super::transport::Transport;
use super::{Progress, Wake};
use crate::error::{Error, Result};
use crate::jail::seccomp::Filters;
use crate::sync::{STACK_BYTES, lock};

/// Event data of the order to stop. The lane's rings have their indices.
const STOP: u64 = u64::MAX;
/// Event data of the lane's first source; the others follow.
const SOURCES: u64 = 1 << 32;

/// A lane's thread. Dropped, it ends the thread and waits for it.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread of lane `index` of `device`, under the filter of its duty.
    ///
    /// # Errors
    /// The host gives no thread or descriptors.
    pub fn start(device: Arc<Transport>, index: usize, filters: &Filters) -> Result<Self> {
        let stop =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make a device's eventfd"))?;
        let lane = lock(&device.lanes()[index]);
        let (name, duty, filters) = (lane.lane().name(), lane.lane().duty(), filters.clone());
        let epoll = watch(&lane, &stop).map_err(Error::host("watch a device's queues"))?;
        drop(lane);
        let thread = thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(move || {
                filters.bind(duty);
                work(&device, index, &epoll);
            })
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

fn watch(lane: &Work, stop: &EventFd) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |fd: RawFd, events, data| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, data));
    add(stop.as_raw_fd(), EventSet::IN, STOP)?;
    // At their edges: a packet for which the guest has no buffer waits in the host without waking us again.
    let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
    for (index, ring) in lane.rings().iter().enumerate() {
        if lane.lane().watches(index) {
            add(ring.kick().as_raw_fd(), edges, index as u64)?;
        }
    }
    for (index, source) in lane.lane().sources().iter().enumerate() {
        add(source.as_raw_fd(), edges, SOURCES + index as u64)?;
    }
    Ok(epoll)
}

fn work(device: &Transport, lane: usize, epoll: &Epoll) {
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
                source @ SOURCES.. => Wake::Source((source - SOURCES) as usize),
                // Edge-triggered: the counter need not be read.
                queue => Wake::Queue(queue as usize),
            };
            if !pending.contains(&wake) {
                pending.push(wake);
            }
        }
        pending.retain(|wake| device.service(lane, *wake) == Progress::More);
    }
}
