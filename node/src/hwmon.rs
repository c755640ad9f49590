//! How warm the host is: the sensors that its kernel has drivers for (Linux `Documentation/hwmon/sysfs-interface.rst`).

use std::fs;
use std::path::Path;

use thimble_spec::api::node::Temperature;
use thimble_spec::console::one_line;

/// Where the kernel tells of sensors.
pub const CLASS: &str = "/sys/class/hwmon";
/// Most bytes of a name of a driver's.
const NAME_MAX: usize = 64;

/// All temperatures, in the order of their chips and sensors. A sensor that gives none, such as that of a disk that sleeps, is left
/// out.
pub fn temperatures(class: &Path) -> Vec<Temperature> {
    let mut found = Vec::new();
    for chip in entries(class) {
        let directory = class.join(&chip);
        let read = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            Some(one_line(text.trim(), NAME_MAX)).filter(|text| !text.is_empty())
        };
        let chip = read("name").unwrap_or(chip);
        for file in entries(&directory) {
            let Some(sensor) = file.strip_suffix("_input").filter(|sensor| sensor.starts_with("temp")) else {
                continue;
            };
            let Some(millidegrees) = read(&file).and_then(|text| text.parse::<i32>().ok()) else { continue };
            found.push(Temperature {
                chip: chip.clone(),
                sensor: read(&format!("{sensor}_label")).unwrap_or_else(|| sensor.to_owned()),
                celsius: f64::from(millidegrees) / 1000.0,
            });
        }
    }
    found
}

/// The names in a directory, those with smaller numbers first.
fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_by_cached_key(|name| (name.len(), name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensors_are_read_as_the_kernel_writes_them() {
        let class = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("hwmon0/name", "coretemp\n"),
            ("hwmon0/temp10_input", "-5500\n"),
            ("hwmon0/temp2_input", "41000\n"),
            ("hwmon0/temp2_label", "Core 0\n"),
            ("hwmon0/temp2_crit", "100000\n"),
            ("hwmon0/fan1_input", "1200\n"),
            ("hwmon1/name", "drivetemp\n"),
            ("hwmon1/temp1_input", "\n"),
        ] {
            let path = class.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let of =
            |sensor: &str, celsius| Temperature { chip: "coretemp".to_owned(), sensor: sensor.to_owned(), celsius };
        assert_eq!(temperatures(class.path()), [of("Core 0", 41.0), of("temp10", -5.5)]);
        assert_eq!(temperatures(Path::new("/nowhere")), []);
    }
}
