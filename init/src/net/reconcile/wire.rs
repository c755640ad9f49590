//! Options of links as the kernel's attributes, and back.

use netlink_packet_route::link::{
    BondLacpRate, BondMode as WireMode, BondXmitHashPolicy, BridgeStpState, BridgeVlanInfo, BridgeVlanInfoFlags,
    InfoBond, InfoBridge, InfoData, InfoKind, InfoVlan, LinkInfo,
};
use thimble_spec::appliance::{BondMode, HashPolicy, LacpRate};

use super::state::{BondOptions, BridgeOptions, Kind, PortVlan};

/// What to tell the driver of a bond that has `from` and shall have `to`; all that the mode knows, if it is new.
pub fn bond(from: Option<&BondOptions>, to: &BondOptions) -> Vec<InfoBond> {
    let same_mode = from.is_some_and(|from| from.mode == to.mode);
    let from = from.filter(|_| same_mode);
    let differs = |get: fn(&BondOptions) -> u32| from.is_none_or(|from| get(from) != get(to));
    let mut options = Vec::new();
    if !same_mode {
        options.push(InfoBond::Mode(wire_mode(to.mode)));
    }
    // The delays are counted in looks: they come again when the time between looks changes.
    let looks = differs(|options| options.miimon_ms);
    if looks {
        options.push(InfoBond::MiiMon(to.miimon_ms));
    }
    if looks || differs(|options| options.updelay_ms) {
        options.push(InfoBond::UpDelay(to.updelay_ms));
    }
    if looks || differs(|options| options.downdelay_ms) {
        options.push(InfoBond::DownDelay(to.downdelay_ms));
    }
    if to.mode.hashes() && differs(|options| options.xmit_hash_policy as u32) {
        options.push(InfoBond::XmitHashPolicy(match to.xmit_hash_policy {
            HashPolicy::Layer2 => BondXmitHashPolicy::Layer2,
            HashPolicy::Layer34 => BondXmitHashPolicy::Layer34,
            HashPolicy::Layer23 => BondXmitHashPolicy::Layer23,
            HashPolicy::Encap23 => BondXmitHashPolicy::Encap23,
            HashPolicy::Encap34 => BondXmitHashPolicy::Encap34,
            HashPolicy::VlanSource => BondXmitHashPolicy::VlanSrcMac,
        }));
    }
    if to.mode == BondMode::Lacp && differs(|options| options.lacp_rate as u32) {
        options.push(InfoBond::AdLacpRate(match to.lacp_rate {
            LacpRate::Slow => BondLacpRate::Slow,
            LacpRate::Fast => BondLacpRate::Fast,
        }));
    }
    options
}

/// What the driver says of a bond; what is unknown here is as by default.
pub fn read_bond(attributes: &[InfoBond]) -> BondOptions {
    let mut options = BondOptions::default();
    for attribute in attributes {
        match attribute {
            InfoBond::Mode(mode) => options.mode = read_mode(*mode),
            InfoBond::MiiMon(time) => options.miimon_ms = *time,
            InfoBond::UpDelay(time) => options.updelay_ms = *time,
            InfoBond::DownDelay(time) => options.downdelay_ms = *time,
            InfoBond::AdLacpRate(BondLacpRate::Fast) => options.lacp_rate = LacpRate::Fast,
            InfoBond::XmitHashPolicy(policy) => {
                options.xmit_hash_policy = match policy {
                    BondXmitHashPolicy::Layer34 => HashPolicy::Layer34,
                    BondXmitHashPolicy::Layer23 => HashPolicy::Layer23,
                    BondXmitHashPolicy::Encap23 => HashPolicy::Encap23,
                    BondXmitHashPolicy::Encap34 => HashPolicy::Encap34,
                    BondXmitHashPolicy::VlanSrcMac => HashPolicy::VlanSource,
                    _ => HashPolicy::Layer2,
                }
            }
            _ => {}
        }
    }
    options.cleaned()
}

fn wire_mode(mode: BondMode) -> WireMode {
    match mode {
        BondMode::BalanceRr => WireMode::BalanceRr,
        BondMode::ActiveBackup => WireMode::ActiveBackup,
        BondMode::BalanceXor => WireMode::BalanceXor,
        BondMode::Broadcast => WireMode::Broadcast,
        BondMode::Lacp => WireMode::Ieee8023Ad,
        BondMode::BalanceTlb => WireMode::BalanceTlb,
        BondMode::BalanceAlb => WireMode::BalanceAlb,
    }
}

fn read_mode(mode: WireMode) -> BondMode {
    match mode {
        WireMode::ActiveBackup => BondMode::ActiveBackup,
        WireMode::BalanceXor => BondMode::BalanceXor,
        WireMode::Broadcast => BondMode::Broadcast,
        WireMode::Ieee8023Ad => BondMode::Lacp,
        WireMode::BalanceTlb => BondMode::BalanceTlb,
        WireMode::BalanceAlb => BondMode::BalanceAlb,
        _ => BondMode::BalanceRr,
    }
}

/// What to tell a bridge that has `from` and shall have `to`: a kernel without VLANs refuses any word about filtering.
pub fn bridge(from: &BridgeOptions, to: &BridgeOptions) -> Vec<InfoBridge> {
    let filtering = (from.vlan_filtering != to.vlan_filtering).then_some(InfoBridge::VlanFiltering(to.vlan_filtering));
    let state = if to.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    let stp = (from.stp != to.stp).then_some(InfoBridge::StpState(state));
    filtering.into_iter().chain(stp).collect()
}

/// What a bridge says of itself.
pub fn read_bridge(attributes: &[InfoBridge]) -> BridgeOptions {
    let mut options = BridgeOptions::default();
    for attribute in attributes {
        match attribute {
            InfoBridge::VlanFiltering(on) => options.vlan_filtering = *on,
            InfoBridge::StpState(state) => options.stp = *state != BridgeStpState::Disabled,
            _ => {}
        }
    }
    options
}

/// What a link of a kind is made by; a card is not made.
pub fn made(kind: &Kind) -> Option<Vec<LinkInfo>> {
    let (kind, data) = match kind {
        Kind::Card => return None,
        Kind::Bond(options) => (InfoKind::Bond, Some(InfoData::Bond(bond(None, options)))),
        Kind::Bridge(options) => (InfoKind::Bridge, Some(InfoData::Bridge(bridge(&BridgeOptions::default(), options)))),
        Kind::Vlan(vlan) => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(vlan.id)]))),
        Kind::Dummy => (InfoKind::Dummy, None),
    };
    Some([LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect())
}

/// A port's place in a VLAN.
pub fn vlan(id: u16, how: PortVlan) -> BridgeVlanInfo {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, how.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, how.untagged);
    BridgeVlanInfo { flags, vid: id }
}

/// The same, read.
pub fn read_vlan(info: &BridgeVlanInfo) -> (u16, PortVlan) {
    let has = |flag| info.flags.contains(flag);
    (info.vid, PortVlan { pvid: has(BridgeVlanInfoFlags::Pvid), untagged: has(BridgeVlanInfoFlags::Untagged) })
}
