//! `cargo bench -p thimble-vmm --features testing`: what a request costs, in nanoseconds.

use criterion::{Criterion, criterion_group, criterion_main};
use thimble_vmm::virtio::testing::loads::Load;

fn devices(criterion: &mut Criterion) {
    for mut load in Load::all() {
        criterion.bench_function(load.name, |bencher| bencher.iter(|| load.step()));
    }
}

criterion_group!(benches, devices);
criterion_main!(benches);
