//! `requests INDEX COUNT`: makes requests of one kind, for a tool that counts instructions; without arguments, lists the
//! kinds.

use thimble_vmm::virtio::testing::loads::Load;

fn main() {
    let mut words = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let mut loads = Load::all();
    match (words.next(), words.next()) {
        (Some(index), Some(count)) if index < loads.len() => (0..count).for_each(|_| loads[index].step()),
        _ => loads.iter().for_each(|load| println!("{}", load.name)),
    }
}
