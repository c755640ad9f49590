//! A new guest whose disk begins as a copy of another's.

use std::sync::Arc;

use thimble_spec::api::audit::Who;
use thimble_spec::api::task::{Job, Make, State, Task};
use thimble_spec::appliance::{DiskSource, Guest};
use tokio::task::spawn_blocking;

use super::Api;
use super::call::Refusal;
use super::change::Condition;
use crate::copy;
use crate::life::{Entry, Loan};
use crate::tasks::Begun;

impl Api {
    /// Begins to make the guest `name`, which is to be what `text` says, on a copy of the disk of the guest `of`, which stays
    /// off meanwhile. The copy goes on, whether or not somebody waits for it.
    ///
    /// # Errors
    /// It may not be that, or is there already; there is no guest `of`, or it is not off, or its disk is none that the node made.
    pub async fn clone_guest(self: &Arc<Self>, of: &str, name: &str, text: &[u8], who: &Who) -> Result<Task, Refusal> {
        let source = self.guest(of)?;
        let guest = self.may_be_new(name, text).await?;
        fits(&source.defined().guest, &guest)?;
        let loan = source.borrow_disk().await.map_err(Refusal::conflict)?;
        let begun = self.tasks.begin(name, Job::Make(Make::Clone));
        let begun = begun.ok_or_else(|| Refusal::busy("too many tasks run: wait for some, or give them up"))?;
        let task = begun.task();
        let copying = Copying { source, loan, guest, text: text.to_vec(), who: who.clone(), begun };
        tokio::spawn(copying.make(Arc::clone(self)));
        Ok(task)
    }
}

/// A copy that is being made.
struct Copying {
    source: Entry,
    loan: Loan,
    guest: Guest,
    text: Vec<u8>,
    who: Who,
    begun: Begun,
}

impl Copying {
    /// To its end.
    async fn make(self, api: Arc<Api>) {
        let copied = match &self.guest.disk {
            Some(_) => self.copy(&api).await,
            None => Ok(false),
        };
        let Self { loan, guest, text, who, begun, .. } = self;
        drop(loan);
        let name = &guest.name;
        let made = match &copied {
            Err(error) => Err(format!("{error:#}")),
            // In the last moment.
            Ok(_) if !begun.goes_on() => Err("given up".to_owned()),
            Ok(_) => api.define(name, &text, &Condition::New, &who).await.map(drop).map_err(|refusal| refusal.sentence),
        };
        match made {
            Ok(()) => begun.end(State::Done, "defined"),
            Err(sentence) => {
                if matches!(copied, Ok(true)) {
                    // Should it stay, it is on the list of disks.
                    let _ = copy::remove(&api.book.disks, name);
                }
                begun.end(State::Failed, &sentence);
            }
        }
    }

    async fn copy(&self, api: &Api) -> anyhow::Result<bool> {
        let (disks, source, name) = (api.book.disks.clone(), self.source.name.to_string(), self.guest.name.clone());
        let begun = self.begun.clone();
        let copied = spawn_blocking(move || {
            copy::disk(&disks, &source, &name, &|share| {
                begun.progress(&format!("copying, {share} %"));
                begun.goes_on()
            })
        });
        copied.await?
    }
}

/// Whether the disk of one is one to copy for the other.
fn fits(source: &Guest, guest: &Guest) -> Result<(), Refusal> {
    let size = |guest: &Guest| match guest.disk.as_ref().map(|disk| &disk.source) {
        None => Ok(None),
        Some(DiskSource::Size(size)) => Ok(Some(*size)),
        Some(DiskSource::Device(path) | DiskSource::File(path)) => Err(path.clone()),
    };
    let name = &source.name;
    let refuse = |sentence: String| Err(Refusal::wrong(sentence));
    match (size(source), size(guest)) {
        (Err(path), _) => refuse(format!(
            "the disk of guest {name} is {path}, which the node did not make: copy that by hand, and define a guest on the copy"
        )),
        (_, Err(path)) => refuse(format!("disk.source: a copy is made by the node: give its size, not {path}")),
        (Ok(None), Ok(Some(_))) => {
            refuse(format!("disk: guest {name} has no disk to copy: leave it out, or define it"))
        }
        (Ok(Some(_)), Ok(None)) => {
            refuse(format!("disk: guest {name} has one, and its copy is to have none: say define"))
        }
        (Ok(old), Ok(new)) if new < old => {
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            refuse(format!("disk.source.size: {new} is less than the {old} that are copied"))
        }
        (Ok(_), Ok(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use crate::api::tests::{Node, node_of};

    const GUEST: &str = "memory = \"64MiB\"\ndisk = { size = \"16MiB\" }";

    /// A node with a guest that has a disk, and one that has none; and what the copy of the first is to be.
    async fn node() -> (Node, Value) {
        let node = node_of(&[GUEST, "memory = \"64MiB\""]);
        let path = disk(&node, "web1");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![7; 3 << 20]).unwrap();
        let (_, mut copy) = node.ask("GET", "/v1/guests/web1/definition").await;
        copy["name"] = "web3".into();
        (node, copy)
    }

    fn disk(node: &Node, guest: &str) -> PathBuf {
        node.directory.path().join("disks").join(guest).join("disk.raw")
    }

    /// What became of the task.
    async fn end(node: &Node, task: &Value) -> Value {
        node.ask("GET", &format!("/v1/tasks/{}?wait_s=20", task["id"].as_str().unwrap())).await.1
    }

    #[tokio::test]
    async fn a_guest_that_is_off_is_copied_with_its_disk() {
        let (node, mut copy) = node().await;
        let at = "/v1/guests/web3/clone?of=web1";
        let (status, _, problem) = node.put_at(at, "", &copy).await;
        assert_eq!((status, &problem["error"]), (409, &"it runs".into()));
        node.ask("POST", "/v1/guests/web1/destroy").await;
        let (status, _, task) = node.put_at(at, "", &copy).await;
        assert_eq!((status, &task["guest"], &task["verb"]), (202, &"web3".into(), &"clone".into()), "{task}");
        let task = end(&node, &task).await;
        assert_eq!((&task["state"], &task["progress"]), (&"done".into(), &"defined".into()));
        assert!(fs::read(disk(&node, "web3")).unwrap() == fs::read(disk(&node, "web1")).unwrap());
        assert_eq!(node.ask("GET", "/v1/guests/web3/definition").await.1["name"], "web3");
        // It has its disk back, and there is one web3.
        assert_eq!(node.ask("POST", "/v1/guests/web1/start").await.0, 202);
        node.ask("POST", "/v1/guests/web1/destroy").await;
        assert_eq!(node.put_at(at, "", &copy).await.0, 412);

        // A disk outlives its guest, until somebody takes it away.
        let volumes = async || {
            let list = node.ask("GET", "/v1/volumes").await.1;
            let of = |it: &Value| (it["name"].as_str().unwrap().to_owned(), it["used"].as_bool().unwrap());
            list["volumes"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(volumes().await, [("web1".to_owned(), true), ("web3".to_owned(), true)]);
        for (name, status) in [("web1", 409), ("web3", 409), ("web9", 404)] {
            assert_eq!(node.ask("DELETE", &format!("/v1/volumes/{name}")).await.0, status, "{name}");
        }
        node.ask("DELETE", "/v1/guests/web3/definition").await;
        assert_eq!(volumes().await, [("web1".to_owned(), true), ("web3".to_owned(), false)]);
        let (_, _, task) = node.put_at(at, "", &copy).await;
        let task = end(&node, &task).await;
        assert!(task["progress"].as_str().unwrap().contains("there is a disk of a guest web3 already"), "{task}");
        assert_eq!(node.ask("DELETE", "/v1/volumes/web3").await.0, 200);
        assert_eq!(volumes().await, [("web1".to_owned(), true)]);
        assert!(node.api.audit.entries().iter().any(|entry| entry.what == "guest web3: its disk is deleted"));
        copy["disk"]["source"]["size"] = "32MiB".into();
        let (_, _, task) = node.put_at(at, "", &copy).await;
        assert_eq!(end(&node, &task).await["state"], "done", "it may be larger");
    }

    #[tokio::test]
    async fn what_cannot_be_copied_is_refused_and_nothing_is_made() {
        let (node, copy) = node().await;
        node.ask("POST", "/v1/guests/web1/destroy").await;
        let change = |key: &str, value: Value| {
            let mut copy = copy.clone();
            copy[key] = value;
            copy
        };
        let device = change("disk", json!({ "source": { "device": "/dev/thimble/x" } }));
        for (at, copy, wanted) in [
            ("web3/clone", copy.clone(), "of: "),
            ("web3/clone?of=../web1", copy.clone(), "of: "),
            ("web3/clone?of=web9", copy.clone(), "there is no guest of that name"),
            ("web3/clone?of=web2", copy.clone(), "disk: guest web2 has no disk to copy"),
            ("web4/clone?of=web1", copy.clone(), "name: this is the definition of `web3`"),
            ("web3/clone?of=web1", change("disk", Value::Null), "and its copy is to have none"),
            ("web3/clone?of=web1", device, "is no block device for guests"),
            ("web3/clone?of=web1", change("memory", "1MiB".into()), "memory: use 32MiB or more"),
        ] {
            let (status, _, problem) = node.put_at(&format!("/v1/guests/{at}"), "", &copy).await;
            assert!([400, 404].contains(&status), "{at}: {problem}");
            assert!(problem["error"].as_str().unwrap().contains(wanted), "{wanted}: {problem}");
        }
        assert!(!disk(&node, "web3").parent().unwrap().exists());
        assert_eq!(node.ask("GET", "/v1/tasks").await.1["tasks"].as_array().unwrap().len(), 1, "that of destroy");
    }
}
