//! The guests: what they do and what they are made of.

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::guest::{Detail, Disk, Guest, Guests, Interface, Processor};
use thimble_spec::appliance;
use thimble_spec::names::tap_name;

use crate::api::Api;
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::life::Entry;
use crate::plan;

/// Their routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/guests",
        role: Role::Read,
        summary: "All guests, those that are off too",
        query: &[],
        gives: Gives::Json("Guests"),
        serve: |call| Box::pin(async move { answer::json(StatusCode::OK, &list(&call.api)) }),
    },
    Route {
        method: Method::GET,
        path: "/v1/guests/{name}",
        role: Role::Read,
        summary: "A guest and its devices",
        query: &[],
        gives: Gives::Json("Detail"),
        serve: |call| Box::pin(async move { get(&call) }),
    },
    Route {
        method: Method::GET,
        path: "/v1/guests/{name}/config",
        role: Role::Read,
        summary: "What a guest runs by, or is to be started by if it is off",
        query: &[],
        gives: Gives::Definition,
        serve: |call| Box::pin(async move { config(&call) }),
    },
];

/// All guests.
pub fn list(api: &Api) -> Guests {
    Guests { guests: api.guests().iter().map(shown).collect() }
}

fn shown(entry: &Entry) -> Guest {
    let (guest, waits, defined) = (entry.guest(), entry.waits(), entry.defined());
    let life = entry.life.borrow();
    Guest {
        name: guest.name.clone(),
        state: life.state,
        reason: life.reason.clone(),
        pid: life.vmm.map(|(pid, _)| pid),
        uptime_s: life.vmm.map(|(_, since)| since.elapsed().as_secs_f64()),
        ready_s: life.ready_s,
        starts: life.starts,
        // That is no matter of its machine: what is said last goes.
        autostart: defined.guest.autostart,
        defined: defined.origin,
        waits,
        vcpus: guest.vcpus,
        memory_mib: guest.memory.bytes() >> 20,
    }
}

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    let entry = call.api.guest(call.name())?;
    let guest = &*entry.guest();
    let detail = Detail {
        guest: shown(&entry),
        image: guest.image.clone(),
        disks: disks(guest),
        interfaces: guest.network.iter().map(|network| interface(&guest.name, network)).collect(),
        processors: (0..guest.vcpus).map(|vcpu| processor(guest, vcpu)).collect(),
    };
    answer::json(StatusCode::OK, &detail)
}

fn config(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &*call.shown(&call.api.guest(call.name())?.guest()))
}

/// The image, if there is one, and its own behind it: `plan::config` has it so.
fn disks(guest: &appliance::Guest) -> Vec<Disk> {
    let image = plan::image(guest).map(|path| (path, true));
    let own = plan::own_disk(guest).map(|path| (path, guest.disk.as_ref().is_some_and(|disk| disk.read_only)));
    let disks = ('a'..='z').zip([image, own].into_iter().flatten());
    disks
        .map(|(letter, (path, read_only))| Disk {
            target: format!("vd{letter}"),
            source: path.display().to_string(),
            read_only,
        })
        .collect()
}

fn interface(guest: &str, network: &appliance::GuestNetwork) -> Interface {
    Interface {
        name: tap_name(guest),
        kind: network.plug.kind().to_owned(),
        source: network.plug.link().to_owned(),
        mac: network.mac.to_string(),
        address: network.address.map(|address| address.to_string()),
        vlan: network.vlan,
    }
}

fn processor(guest: &appliance::Guest, vcpu: u8) -> Processor {
    let affinity = guest.cpu.pins.get(usize::from(vcpu)).cloned().unwrap_or_default();
    Processor { vcpu, affinity }
}
