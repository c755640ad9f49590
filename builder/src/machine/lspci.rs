//! What `lspci` (pciutils) wrote for machines to read: `-nmm`, `-mm -nn`, `-vmm -n`, with `-k` and `-D` or without; and what
//! the kernel itself writes into `/sys/bus/pci/devices/*/modalias`.

use super::device::Device;

/// More devices than any machine has: the text comes from anywhere.
const DEVICES_MAX: usize = 4096;
/// What it wants to be given.
const WANTED: &str = "it wants what `lspci -nmm` prints";

/// Reads all devices.
///
/// # Errors
/// A sentence with the line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Device>, String> {
    let mut devices = Vec::new();
    // `-vmm` writes a device as a paragraph of `Key:<tab>value`.
    let mut paragraph: Option<Paragraph> = None;
    for (index, line) in text.lines().enumerate() {
        let wrong = |why: String| format!("line {}: {why}: {WANTED}", index + 1);
        let line = line.trim_end();
        if devices.len() >= DEVICES_MAX {
            return Err(wrong(format!("more than {DEVICES_MAX} devices")));
        }
        if line.is_empty() {
            if let Some(done) = paragraph.take() {
                devices.push(done.finish().map_err(wrong)?);
            }
        } else if let Some((key, value)) = line.split_once(":\t") {
            // A new slot without an empty line between starts a device too.
            if key == "Slot"
                && let Some(done) = paragraph.take()
            {
                devices.push(done.finish().map_err(wrong)?);
            }
            paragraph.get_or_insert_default().add(key, value).map_err(wrong)?;
        } else if line.starts_with("pci:v") {
            devices.push(modalias(line).ok_or_else(|| wrong("no PCI modalias".to_owned()))?);
        } else if !line.starts_with(['#', '\t', ' ']) {
            devices.push(fields(line).map_err(wrong)?);
        }
    }
    if let Some(last) = paragraph {
        devices.push(last.finish().map_err(|why| format!("the last device: {why}: {WANTED}"))?);
    }
    if devices.is_empty() { Err(format!("there is no device in it: {WANTED}")) } else { Ok(devices) }
}

/// `00:1f.2 "0106" "8086" "2922" -r02 -p01 "1af4" "1100"`.
fn fields(line: &str) -> Result<Device, String> {
    let (slot, mut rest) = line.split_once(' ').ok_or("no device")?;
    if !is_slot(slot) {
        return Err(format!("{} is no place of a PCI device", short(slot)));
    }
    let (mut texts, mut interface) = (Vec::new(), 0);
    loop {
        rest = rest.trim_start();
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, behind) = quoted.split_once('"').ok_or("a quote has no end")?;
            texts.push(text);
            rest = behind;
        } else {
            let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            match word.split_at_checked(2) {
                Some(("-p", value)) => {
                    interface = u8::from_str_radix(value, 16).map_err(|_| format!("{} is no number", short(word)))?;
                }
                Some(("-r", _)) => {}
                None if word.is_empty() => break,
                // `lspci -nn` without -mm: the words are for people, and the interface is missing.
                _ => return Err(format!("{} was not expected", short(word))),
            }
            rest = behind;
        }
    }
    let [class, vendor, device, more @ ..] = texts.as_slice() else {
        return Err("class, vendor and device are not all there".to_owned());
    };
    let optional = |index: usize| more.get(index).filter(|text| !text.is_empty()).map_or(Ok(0), |text| number(text));
    Ok(Device {
        slot: slot.to_owned(),
        class: number(class)?,
        interface,
        vendor: number(vendor)?,
        device: number(device)?,
        sub_vendor: optional(0)?,
        sub_device: optional(1)?,
        name: [words(vendor), words(device)].join(" ").trim().to_owned(),
    })
}

/// A device of `-vmm`, as far as it was read.
#[derive(Default)]
struct Paragraph {
    device: Device,
    seen: [bool; 3],
}

impl Paragraph {
    fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        let device = &mut self.device;
        match key {
            "Slot" if is_slot(value) => value.clone_into(&mut device.slot),
            "Slot" => return Err(format!("{} is no place of a PCI device", short(value))),
            "Class" => (device.class, self.seen[0]) = (number(value)?, true),
            "Vendor" => (device.vendor, self.seen[1]) = (number(value)?, true),
            "Device" => (device.device, self.seen[2]) = (number(value)?, true),
            "SVendor" => device.sub_vendor = number(value)?,
            "SDevice" => device.sub_device = number(value)?,
            "ProgIf" => {
                let text = value.trim();
                device.interface = u8::from_str_radix(text, 16).map_err(|_| format!("{} is no number", short(text)))?;
            }
            // Revision, NUMA node, IOMMU group, driver, module.
            _ => return Ok(()),
        }
        if matches!(key, "Vendor" | "Device") {
            device.name = format!("{} {}", device.name, words(value)).trim().to_owned();
        }
        Ok(())
    }

    fn finish(self) -> Result<Device, String> {
        let whole = self.seen == [true; 3] && !self.device.slot.is_empty();
        if whole { Ok(self.device) } else { Err("a device lacks its slot, class, vendor or device".to_owned()) }
    }
}

/// `pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01`.
fn modalias(line: &str) -> Option<Device> {
    let mut rest = line.strip_prefix("pci:")?;
    let mut next = |key: &str, digits: usize| {
        let (text, behind) = rest.strip_prefix(key)?.split_at_checked(digits)?;
        rest = behind;
        u32::from_str_radix(text, 16).ok()
    };
    let ids = [next("v", 8)?, next("d", 8)?, next("sv", 8)?, next("sd", 8)?];
    let [base, sub, interface] = [next("bc", 2)?, next("sc", 2)?, next("i", 2)?];
    let mut ids = ids.into_iter().map(|id| u16::try_from(id).ok());
    Some(Device {
        slot: String::new(),
        vendor: ids.next()??,
        device: ids.next()??,
        sub_vendor: ids.next()??,
        sub_device: ids.next()??,
        class: u16::try_from(base << 8 | sub).ok()?,
        interface: u8::try_from(interface).ok()?,
        name: String::new(),
    })
    .filter(|_| rest.is_empty())
}

/// `8086`, or the number at the end of `Intel Corporation [8086]`.
fn number(text: &str) -> Result<u16, String> {
    let text = text.trim();
    let digits = text.strip_suffix(']').and_then(|text| Some(text.rsplit_once('[')?.1)).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16)
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| format!("{} is no number of four hexadecimal digits", short(text)))
}

/// `Intel Corporation` of `Intel Corporation [8086]`; nothing of `8086`.
fn words(text: &str) -> String {
    let plain = text.rsplit_once(" [").map_or("", |(words, _)| words);
    plain.chars().filter(|c| !c.is_control()).collect()
}

/// `00:1f.2` or `0000:00:1f.2`.
fn is_slot(text: &str) -> bool {
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((place, function)) = text.split_once('.') else { return false };
    let parts: Vec<&str> = place.split(':').collect();
    let known = match parts.as_slice() {
        [bus, device] => hex(bus, 2..=2) && hex(device, 2..=2),
        [domain, bus, device] => hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2),
        _ => false,
    };
    known && hex(function, 1..=1)
}

/// A foreign word, short and harmless enough for a message.
fn short(text: &str) -> String {
    let start: String = text.chars().take(24).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SATA: &str = r#"00:1f.2 "0106" "8086" "2922" -r02 -p01 "1af4" "1100""#;

    fn sata() -> Device {
        Device {
            slot: "00:1f.2".to_owned(),
            class: 0x0106,
            interface: 1,
            vendor: 0x8086,
            device: 0x2922,
            sub_vendor: 0x1af4,
            sub_device: 0x1100,
            name: String::new(),
        }
    }

    #[test]
    fn each_way_of_writing_gives_the_same_device() {
        assert_eq!(parse(SATA), Ok(vec![sata()]));
        let named = r#"00:1f.2 "SATA controller [0106]" "Intel [8086]" "82801IR [AHCI] [2922]" -r02 -p01 "Red Hat [1af4]" "QEMU [1100]""#;
        assert_eq!(parse(named), Ok(vec![Device { name: "Intel 82801IR [AHCI]".to_owned(), ..sata() }]));
        let paragraphs = "Slot:\t00:1f.2\nClass:\t0106\nVendor:\t8086\nDevice:\t2922\nSVendor:\t1af4\nSDevice:\t1100\n\
                          Rev:\t02\nProgIf:\t01\nDriver:\tahci\nModule:\tahci\n\n";
        assert_eq!(parse(paragraphs), Ok(vec![sata()]));
        assert_eq!(parse(paragraphs.trim_end()), Ok(vec![sata()]));
        assert_eq!(parse(&sata().modalias()), Ok(vec![Device { slot: String::new(), ..sata() }]));
    }

    #[test]
    fn what_may_be_missing_may_be_missing() {
        let bridge = parse("0000:00:00.0 \"0600\" \"8086\" \"29c0\" \"\" \"\"\n").unwrap().remove(0);
        assert_eq!((bridge.class, bridge.sub_vendor, bridge.interface), (0x0600, 0, 0));
        assert_eq!(parse("00:00.0 \"0600\" \"8086\" \"29c0\"").unwrap().len(), 1);
    }

    #[test]
    fn what_is_for_people_is_refused_with_what_to_do() {
        let told = |text: &str| parse(text).unwrap_err();
        let people = "00:1f.2 SATA controller [0106]: Intel Corporation 82801IR [8086:2922] (rev 02)";
        assert_eq!(told(people), "line 1: \"SATA\" was not expected: it wants what `lspci -nmm` prints");
        assert!(told("").contains("no device in it"));
        assert!(told("\n\nhello world").starts_with("line 3: \"hello\" is no place"));
        assert!(told("00:1f.2 \"0106\" \"8086\"").contains("not all there"));
        assert!(told("00:1f.2 \"0106").contains("no end"));
        assert!(told("00:1f.2 \"0106\" \"80861\" \"2922\"").contains("80861"));
        assert!(told("Slot:\t00:1f.2\nClass:\t0106\n").contains("lacks its slot"));
        let many = format!("{SATA}\n").repeat(DEVICES_MAX + 1);
        assert!(told(&many).contains("more than 4096"));
    }

    fn device() -> impl Strategy<Value = Device> {
        let ids = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
        (any::<u8>(), any::<u16>(), any::<u8>(), ids).prop_map(|(bus, class, interface, ids)| Device {
            slot: format!("{bus:02x}:1f.2"),
            class,
            interface,
            vendor: ids.0,
            device: ids.1,
            sub_vendor: ids.2,
            sub_device: ids.3,
            name: String::new(),
        })
    }

    proptest! {
        #[test]
        fn what_lspci_writes_is_read_as_it_was(devices in proptest::collection::vec(device(), 1..20)) {
            let line = |d: &Device| format!(
                "{} \"{:04x}\" \"{:04x}\" \"{:04x}\" -r01 -p{:02x} \"{:04x}\" \"{:04x}\"\n",
                d.slot, d.class, d.vendor, d.device, d.interface, d.sub_vendor, d.sub_device
            );
            let text: String = devices.iter().map(line).collect();
            prop_assert_eq!(parse(&text), Ok(devices.clone()));
            let aliases: Vec<String> = devices.iter().map(Device::modalias).collect();
            let again = parse(&aliases.join("\n")).unwrap();
            prop_assert_eq!(again.iter().map(Device::modalias).collect::<Vec<_>>(), aliases);
        }

        #[test]
        fn any_text_is_answered(text in "(\\PC|\n){0,200}", like in "(0|:|\\.|f|\"| |-p|-r|Slot:\t|Class:\t|pci:v|\n){0,80}") {
            let _ = (parse(&text), parse(&like));
        }
    }
}
