use super::*;
use crate::testing;

const MEMORY: &str = "memory = \"64MiB\"";

fn book(directory: &Path, guests: &[&str]) -> Book {
    Book::of_test(Arc::new(testing::appliance(guests)), Store::at(directory), directory)
}

fn kept(book: &Book, name: &str, slot: u32, change: impl FnOnce(&mut Guest)) -> Guest {
    let mut guest = testing::guest(MEMORY);
    guest.name = name.to_owned();
    change(&mut guest);
    book.store.write(&Kept { slot, guest: guest.clone() }).unwrap();
    guest
}

fn told(guests: &[Defined]) -> Vec<(&str, Origin, u32, bool)> {
    guests.iter().map(|it| (it.guest.name.as_str(), it.origin, it.index, it.fault.is_some())).collect()
}

#[test]
fn a_kept_definition_is_over_the_images() {
    let directory = tempfile::tempdir().unwrap();
    let book = book(directory.path(), &[MEMORY, MEMORY]);
    kept(&book, "web2", 0, |guest| guest.vcpus = 2);
    kept(&book, "db", 3, |_| ());
    let guests = book.guests();
    let wanted =
        [("web1", Origin::Image, 0, false), ("web2", Origin::Node, 1, false), ("db", Origin::Node, 10_003, false)];
    assert_eq!(told(&guests), wanted);
    assert_eq!(guests[1].guest.vcpus, 2);
    assert_eq!(book.of_image("web2").unwrap().guest.vcpus, 1);
    // Who has a slot keeps it, and a new one gets one that nobody has.
    let all: Vec<Arc<Defined>> = guests.into_iter().map(Arc::new).collect();
    assert_eq!((book.slot(Some(&all[2]), &all), book.slot(None, &all)), (Some(3), Some(0)));
}

#[test]
fn one_that_another_image_has_no_room_for_stays_off_and_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let book = book(directory.path(), &["memory = \"64MiB\"\nvsock = { cid = 9 }"]);
    kept(&book, "db", 0, |guest| guest.vsock = Some(9));
    kept(&book, "web9", 1, |guest| guest.image = Some("missing".to_owned()));
    kept(&book, "web8", 2, |guest| guest.image = Some("../../../etc/x".to_owned()));
    kept(&book, "ok", 4, |_| ());
    fs::write(directory.path().join("broken.json"), "{").unwrap();
    let guests = book.guests();
    let faults: Vec<_> = guests.iter().filter_map(|it| it.fault.clone()).collect();
    assert_eq!(guests.len(), 5);
    assert!(faults[0].contains("vsock: guest web1 has 9 already"), "{faults:?}");
    assert!(faults[1].contains("image: `../../../etc/x` is not a name"), "{faults:?}");
    assert!(faults[2].contains("there is no image `missing` on this node"), "{faults:?}");
    assert_eq!(book.store.read().unwrap().0.len(), 4, "they are kept");
    assert!(directory.path().join("broken.json.damaged").exists());
    assert_eq!(book.guests(), guests);
}

#[tokio::test]
async fn a_file_is_looked_at_before_it_is_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let directory = fs::canonicalize(directory.path()).unwrap();
    let book = book(&directory, &[MEMORY]);
    let file = directory.join("disk.raw");
    let look = async |path: &Path| {
        let mut guest = testing::guest("memory = \"64MiB\"\ndisk = { size = \"16MiB\" }");
        guest.name = "db".to_owned();
        guest.disk.as_mut().unwrap().source = DiskSource::File(path.display().to_string());
        book.look_at_files(&guest).await
    };
    assert!(look(&file).await.unwrap_err().contains("No such file"));
    fs::write(&file, "").unwrap();
    assert_eq!(look(&file).await, Ok(()));
    let link = directory.join("link.raw");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    assert!(look(&link).await.unwrap_err().contains("leads to /dev/null"));
    std::os::unix::fs::symlink(&file, directory.join("other.raw")).unwrap();
    assert!(look(&directory.join("other.raw")).await.is_err());
    assert!(look(&directory).await.is_err());
}
