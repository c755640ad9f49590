//! The device: two queues, or three; one lane.

use std::io;
use std::sync::Arc;

use thimble_spec::vmm;
use vm_memory::GuestMemoryMmap;

use super::config;
use super::metrics::Metrics;
use super::queues::{self, deflate, inflate, report};
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Service, VirtioDevice, Wake, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 5;
/// Index of the inflate queue (section 5.5.2).
const INFLATE: usize = 0;
/// Index of the deflate queue (section 5.5.2).
const DEFLATE: usize = 1;
/// Index of the reporting queue. The specification counts it as the fifth; drivers and devices alike count only the
/// queues that exist.
const REPORT: usize = 2;

/// A balloon.
#[derive(Debug)]
pub struct Balloon {
    features: u64,
    metrics: Arc<Metrics>,
    page: usize,
}

impl Balloon {
    /// A balloon that is to hold what `config` says, of a guest whose memory is made of pages of `page` bytes.
    pub fn new(config: &vmm::Balloon, page: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        metrics.set_target_mib(config.target_mib);
        Self { features: config::features(config), metrics, page }
    }

    /// Its numbers, to be asked for and set while it works.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let queues = if self.features & config::F_REPORTING == 0 { REPORT } else { REPORT + 1 };
        vec![queues::SIZE; queues]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&config::space(self.metrics.target_pages(), self.metrics.actual_pages()), offset, data);
    }

    /// The driver says what the balloon holds; the rest of the space is not its to write.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if offset == config::ACTUAL
            && let Ok(bytes) = data.try_into()
        {
            self.metrics.set_actual_pages(u32::from_le_bytes(bytes));
        }
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        let queues = self.queue_sizes().len();
        vec![Box::new(Pages { metrics: self.metrics.clone(), page: self.page, queues })]
    }
}

/// The lane of all queues.
#[derive(Debug)]
struct Pages {
    metrics: Arc<Metrics>,
    page: usize,
    queues: usize,
}

impl Lane for Pages {
    fn name(&self) -> String {
        "balloon".to_owned()
    }

    fn queues(&self) -> Vec<usize> {
        (0..self.queues).collect()
    }

    fn start(&mut self, _features: u64, _rings: &mut [Ring], _memory: &GuestMemoryMmap) -> io::Result<()> {
        // The balloon of a driver that has just begun is empty.
        self.metrics.set_actual_pages(0);
        Ok(())
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match wake {
            Wake::Queue(INFLATE) => rings[INFLATE].serve(memory, |chain| inflate(chain, memory, self.page)),
            Wake::Queue(DEFLATE) => rings[DEFLATE].serve(memory, deflate),
            Wake::Queue(REPORT) => rings[REPORT].serve(memory, |chain| report(chain, &self.metrics, self.page)),
            _ => Ok(crate::virtio::Progress::Done),
        }
    }
}
