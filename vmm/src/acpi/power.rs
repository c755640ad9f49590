//! The fixed hardware: a power button, and the way to power off (4.8.3).
//!
//! ```text
//! 0x600 PM1_STS    what happened: the button was pressed       a bit written as 1 becomes 0
//! 0x602 PM1_EN     of that, what interrupts
//! 0x604 PM1_CNT    the sleep state to enter; ACPI is on
//! ```
//! The interrupt (SCI) is at a level: high as long as something happened that interrupts.

use std::sync::Mutex;

use thimble_spec::vmm::{ExitReason, POWER_OFF, POWER_PORT};

use crate::sync::lock;

/// Where the registers begin, with `PM1_STS`.
pub const EVENT_PORT: u16 = POWER_PORT - 4;
/// Bytes of the registers.
pub const BYTES: u16 = 6;
/// The sleep type that powers off, as `_S5` has it.
pub const SLEEP_TYPE_OFF: u8 = ((POWER_OFF >> 10) & 7) as u8;

/// `PWRBTN_STS` and `PWRBTN_EN`.
const POWER_BUTTON: u16 = 1 << 8;
/// What `PM1_EN` keeps: `TMR_EN`, `GBL_EN`, `PWRBTN_EN`, `SLPBTN_EN`, `RTC_EN`. All but one never come.
const ENABLE_BITS: u16 = 1 | (1 << 5) | (7 << 8);
/// `SCI_EN`: events interrupt by ACPI's interrupt, and not the BIOS.
const SCI_ENABLE: u16 = 1;
/// `SLP_TYP`.
const SLEEP_TYPE: u16 = 7 << 10;
/// `SLP_EN`, which reads as 0.
const SLEEP_ENABLE: u16 = 1 << 13;

/// ACPI's interrupt line.
pub trait Line: Send + Sync {
    /// Raises or lowers it.
    fn set(&self, high: bool);
}

/// The three registers, and the line as it is.
#[derive(Debug, Default)]
struct Registers {
    status: u16,
    enable: u16,
    sleep_type: u16,
    high: bool,
}

impl Registers {
    fn bytes(&self) -> [u8; BYTES as usize] {
        let [a, b] = self.status.to_le_bytes();
        let [c, d] = self.enable.to_le_bytes();
        let [e, f] = (self.sleep_type | SCI_ENABLE).to_le_bytes();
        [a, b, c, d, e, f]
    }

    fn drive(&mut self, line: &dyn Line) {
        let high = self.status & self.enable != 0;
        if std::mem::replace(&mut self.high, high) != high {
            line.set(high);
        }
    }
}

/// The fixed hardware. A guest without ACPI has it without a button, to power off by.
pub struct Power {
    registers: Mutex<Registers>,
    line: Option<Box<dyn Line>>,
}

impl Power {
    /// With a button, if there is a line for its interrupt.
    pub fn new(line: Option<Box<dyn Line>>) -> Self {
        Self { registers: Mutex::default(), line }
    }

    /// Presses the button; whether there is one.
    pub fn press(&self) -> bool {
        let Some(line) = &self.line else { return false };
        let mut registers = lock(&self.registers);
        registers.status |= POWER_BUTTON;
        registers.drive(&**line);
        true
    }

    /// The guest reads from the register at `offset`; what lies behind the last reads as all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let bytes = lock(&self.registers).bytes();
        data.fill(0xff);
        data.iter_mut().zip(&bytes[usize::from(offset.min(BYTES))..]).for_each(|(byte, value)| *byte = *value);
    }

    /// The guest writes; its end, if this powers it off. Every width will do, and one access may reach two registers.
    pub fn write(&self, offset: u16, data: &[u8]) -> Option<ExitReason> {
        let mut registers = lock(&self.registers);
        let mut sleeps = false;
        for (at, byte) in (offset..BYTES).zip(data) {
            let shift = (at % 2) * 8;
            let (value, mask) = (u16::from(*byte) << shift, 0xff << shift);
            let replace = |register: u16, bits: u16| (register & !mask) | (value & bits);
            match at / 2 {
                0 => registers.status &= !value,
                1 => registers.enable = replace(registers.enable, ENABLE_BITS),
                _ => {
                    registers.sleep_type = replace(registers.sleep_type, SLEEP_TYPE);
                    sleeps |= value & SLEEP_ENABLE != 0;
                }
            }
        }
        if let Some(line) = &self.line {
            registers.drive(&**line);
        }
        (sleeps && registers.sleep_type == POWER_OFF & SLEEP_TYPE).then_some(ExitReason::PowerOff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    impl Line for Arc<AtomicBool> {
        fn set(&self, high: bool) {
            self.store(high, Ordering::SeqCst);
        }
    }

    fn power() -> (Power, Arc<AtomicBool>) {
        let line = Arc::new(AtomicBool::new(false));
        (Power::new(Some(Box::new(line.clone()))), line)
    }

    fn word(power: &Power, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        power.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    #[test]
    fn a_pressed_button_interrupts_until_it_was_seen() {
        let (power, line) = power();
        let high = || line.load(Ordering::SeqCst);
        assert!(power.press());
        assert!(!high(), "nobody wants to know");
        assert_eq!(word(&power, 0), POWER_BUTTON);
        power.write(2, &POWER_BUTTON.to_le_bytes());
        assert!(high());
        // Another event's bit leaves it alone.
        power.write(0, &[0x20, 0]);
        assert!(high());
        power.write(0, &POWER_BUTTON.to_le_bytes());
        assert!(!high());
        assert_eq!((word(&power, 0), word(&power, 2)), (0, POWER_BUTTON));
        assert!(power.press());
        assert!(high());
        power.write(3, &[0]);
        assert!(!high(), "nobody wants to know any more");
    }

    #[test]
    fn a_guest_powers_off_as_it_likes() {
        let off = POWER_OFF.to_le_bytes();
        let (power, _) = power();
        assert_eq!(word(&power, 4), SCI_ENABLE);
        // As Linux does: the type, then the type and the word to go.
        assert_eq!(power.write(4, &(5u16 << 10 | 1).to_le_bytes()), None);
        assert_eq!(word(&power, 4), 5 << 10 | 1);
        assert_eq!(power.write(4, &off), Some(ExitReason::PowerOff));
        assert_eq!(power.write(5, &off[1..]), Some(ExitReason::PowerOff));
        assert_eq!(power.write(2, &[0, 0, 0, off[1]]), Some(ExitReason::PowerOff));
        // Other states there are none.
        assert_eq!(power.write(4, &[0, 0x24]), None);
        assert_eq!(Power::new(None).write(4, &off), Some(ExitReason::PowerOff));
    }

    #[test]
    fn without_acpi_there_is_no_button() {
        let power = Power::new(None);
        assert!(!power.press());
        assert_eq!(word(&power, 0), 0);
    }

    proptest! {
        #[test]
        fn the_line_is_what_the_registers_say(
            accesses in prop::collection::vec((0u16..8, prop::collection::vec(any::<u8>(), 1..5), any::<bool>()), 0..40),
        ) {
            let (power, line) = power();
            for (offset, bytes, press) in accesses {
                if press {
                    power.press();
                }
                power.write(offset, &bytes);
                power.read(offset, &mut bytes.clone());
                let high = word(&power, 0) & word(&power, 2) != 0;
                prop_assert_eq!(line.load(Ordering::SeqCst), high);
                prop_assert_eq!(word(&power, 4) & (SLEEP_ENABLE | SCI_ENABLE), SCI_ENABLE);
            }
        }
    }
}
