//! What the user types on a terminal: most of it is the machine's, a little is ours.

/// Ctrl-A: the next key is ours.
const CTRL_A: u8 = 0x01;
/// Ctrl-C.
const CTRL_C: u8 = 0x03;

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The machine gets this byte.
    Send(u8),
    /// Ctrl-C: power off.
    PowerOff,
    /// Ctrl-A x: end at once.
    Quit,
}

/// Tells the keys apart.
#[derive(Debug, Default)]
pub struct Keys {
    prefixed: bool,
}

impl Keys {
    /// The meaning of the next byte, if it has one alone. Ctrl-A c is a Ctrl-C for the machine, Ctrl-A twice a Ctrl-A.
    pub fn press(&mut self, byte: u8) -> Option<Key> {
        match (std::mem::take(&mut self.prefixed), byte) {
            (true, b'x' | b'X') => Some(Key::Quit),
            (true, b'c') => Some(Key::Send(CTRL_C)),
            (true, b'a' | CTRL_A) => Some(Key::Send(CTRL_A)),
            (false, CTRL_A) => {
                self.prefixed = true;
                None
            }
            (_, CTRL_C) => Some(Key::PowerOff),
            (true, _) => None,
            (false, byte) => Some(Key::Send(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_makes_the_next_key_ours() {
        let mut keys = Keys::default();
        let meanings: Vec<Key> = b"x\x01c\x01\x01\x01zq\x03\x01x".iter().filter_map(|byte| keys.press(*byte)).collect();
        assert_eq!(meanings, [Key::Send(b'x'), Key::Send(3), Key::Send(1), Key::Send(b'q'), Key::PowerOff, Key::Quit]);
    }
}
