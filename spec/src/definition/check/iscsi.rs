//! iSCSI targets, and the disks that are their units.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::storage::Devices;
use super::{Checker, Once, source};
use crate::appliance::{Chap, DiskMatch, ISCSI_PORT, Iscsi};
use crate::names::check_name;

/// Bytes of an iSCSI name (RFC 7143, 4.2.7.1).
const NAME_MAX: usize = 223;
/// Bytes of a password of CHAP: fewer than 96 bits may be refused (RFC 7143, 9.2.1), and Open-iSCSI takes no more.
const PASSWORD: std::ops::RangeInclusive<usize> = 12..=255;
/// The largest number of a logical unit that is written in one level (SAM-5, 4.7.7.5).
const LUN_MAX: u16 = (1 << 14) - 1;

impl Checker<'_> {
    pub(super) fn iscsi(&mut self, targets: Vec<source::Iscsi>) -> Vec<Iscsi> {
        let (mut names, mut known) = (Once::new(), Once::new());
        let checked = targets.into_iter().enumerate().map(|(index, iscsi)| {
            let key = format!("storage.iscsi[{index}]");
            self.expect(check_name(iscsi.name.get_ref()), iscsi.name.span(), &format!("{key}.name"));
            names.take(self, iscsi.name.get_ref(), iscsi.name.span(), &format!("{key}.name"), "iSCSI target");
            self.iscsi_name(&iscsi.target, &format!("{key}.target"));
            known.take(self, iscsi.target.get_ref(), iscsi.target.span(), &format!("{key}.target"), "iSCSI target");
            if let Some(seconds) = iscsi.give_up_s.as_ref().filter(|seconds| *seconds.get_ref() == 0) {
                let message = "use 1 second or more; without this key it is waited for as long as it takes";
                self.wrong(seconds.span(), format!("{key}.give-up-s"), message);
            }
            let portal = portal(iscsi.portal.get_ref()).unwrap_or_else(|| {
                let message =
                    format!("write an address, such as 10.1.1.9, 10.1.1.9:{ISCSI_PORT} or [fd00::9]:{ISCSI_PORT}");
                self.wrong(iscsi.portal.span(), format!("{key}.portal"), message);
                SocketAddr::from(([0, 0, 0, 0], 0))
            });
            Iscsi {
                name: iscsi.name.into_inner(),
                portal,
                target: iscsi.target.into_inner(),
                chap: iscsi.chap.map(|chap| self.chap(chap, &format!("{key}.chap"))),
                give_up: iscsi.give_up_s.map(Spanned::into_inner),
            }
        });
        checked.collect()
    }

    /// A disk that is a target's unit.
    pub(super) fn unit(
        &mut self,
        target: Spanned<String>,
        lun: Option<Spanned<u16>>,
        place: &str,
        taken: &mut Once<String>,
        devices: &Devices,
    ) -> DiskMatch {
        let (name, span) = (target.get_ref(), target.span());
        if !devices.has_target(name) {
            let message = format!("there is no [[storage.iscsi]] with the name {name}");
            self.wrong(span.clone(), format!("{place}.iscsi"), message);
        }
        let lun = match lun {
            Some(lun) => {
                if *lun.get_ref() > LUN_MAX {
                    self.wrong(lun.span(), format!("{place}.lun"), format!("use 0 to {LUN_MAX}"));
                }
                lun.into_inner()
            }
            None => {
                let message = "say which of the target's units it is: lun = 0, or another number";
                self.wrong(span.clone(), format!("{place}.iscsi"), message);
                0
            }
        };
        taken.take(self, &format!("lun {lun} of {name}"), span, &format!("{place}.iscsi"), "disk with");
        DiskMatch::Iscsi { target: target.into_inner(), lun }
    }

    /// RFC 7143, 4.2.7: a name that begins with who gives it, in small letters.
    pub(super) fn iscsi_name(&mut self, name: &Spanned<String>, key: &str) {
        let text = name.get_ref();
        let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
        let known = ["iqn.", "eui.", "naa."].iter().any(|kind| text.starts_with(kind));
        if !known || text.len() > NAME_MAX || !text.bytes().all(sound) {
            let message = "write an iSCSI name of small letters, digits, `-`, `.` and `:`, such as \
                           iqn.2026-01.org.example:store";
            self.wrong(name.span(), key, message);
        }
    }

    fn chap(&mut self, chap: source::Chap, key: &str) -> Chap {
        let sound = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let user = chap.user.get_ref();
        if user.is_empty() || user.len() > *PASSWORD.end() || !sound(user) {
            self.wrong(chap.user.span(), format!("{key}.user"), "use letters, digits and signs of ASCII, no spaces");
        }
        let password = chap.password.get_ref();
        if !PASSWORD.contains(&password.len()) || !sound(password) {
            let (least, most) = (PASSWORD.start(), PASSWORD.end());
            let message = format!("use {least} to {most} letters, digits and signs of ASCII, no spaces");
            self.wrong(chap.password.span(), format!("{key}.password"), message);
        }
        Chap { user: chap.user.into_inner(), password: chap.password.into_inner() }
    }
}

/// An address, with a port or without.
fn portal(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, ISCSI_PORT));
    alone.or_else(|| text.parse().ok()).filter(|portal| portal.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_is_an_address_with_a_port_or_without() {
        let portal = |text| portal(text).map(|portal| portal.to_string());
        assert_eq!(portal("10.1.1.9").as_deref(), Some("10.1.1.9:3260"));
        assert_eq!(portal("10.1.1.9:860").as_deref(), Some("10.1.1.9:860"));
        for text in ["fd00::9", "[fd00::9]", "[fd00::9]:3260"] {
            assert_eq!(portal(text).as_deref(), Some("[fd00::9]:3260"), "{text}");
        }
        for wrong in ["", "filer", "10.1.1.9:0", "10.1.1.9:", "10.1.1"] {
            assert_eq!(portal(wrong), None, "{wrong}");
        }
    }
}
