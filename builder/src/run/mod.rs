//! An appliance in QEMU.
