//! Which networks are asked, where asks go in each, and which sources are neighbours.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use wanigan_parsers::wan::ADDRESSES_MAX;

use super::state::Origin;

/// The IPv4 group of discovery: site-local scope (RFC 2365 section 6.1), sent with a TTL of 1.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 47);

/// The IPv6 group of discovery: link-local scope (RFC 4291 section 2.7).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x7747);

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What the system calls it.
    pub name: String,
    /// What the kernel calls it.
    pub index: u32,
    /// What it can do.
    pub kind: Kind,
    /// Its addresses, each with its network.
    pub addresses: Vec<IpNet>,
}

/// What an interface can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// It is switched on.
    pub up: bool,
    /// It leads nowhere but to this host.
    pub loopback: bool,
    /// It leads to one other host.
    pub point_to_point: bool,
    /// It has broadcast.
    pub broadcast: bool,
    /// It has multicast.
    pub multicast: bool,
}

/// Where a copy of an ask goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To one address: a listed peer, a network's broadcast, or a group whose interface the address names.
    Address(SocketAddr),
    /// To the IPv4 group, out of the interface with this address.
    GroupV4(Ipv4Addr),
}

/// How to reach everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// By IPv4 broadcast.
    pub broadcast: bool,
    /// By multicast: IPv6, and IPv4 where there is no broadcast.
    pub multicast: bool,
}

/// Chooses the interfaces whose networks are asked: the named ones, or else every one with neighbours, except for
/// those towards the core when others remain.
#[must_use]
pub fn choose(all: Vec<Interface>, names: &[String], core_side: &[IpAddr]) -> Vec<Interface> {
    let usable = |interface: &Interface| interface.kind.up && !interface.addresses.is_empty();
    if !names.is_empty() {
        return all.into_iter().filter(|one| usable(one) && names.contains(&one.name)).collect();
    }
    let lan = |one: &Interface| usable(one) && !one.kind.loopback && !one.kind.point_to_point;
    let to_core = |one: &Interface| one.addresses.iter().any(|net| core_side.contains(&net.addr()));
    let (to_core, others): (Vec<Interface>, Vec<Interface>) = all.into_iter().filter(lan).partition(to_core);
    if others.is_empty() { to_core } else { others }
}

/// Returns every place an ask goes to. In one network of one family it goes one way only.
#[must_use]
pub fn destinations(chosen: &[Interface], ways: Ways, listed: &[SocketAddr], port: u16) -> Vec<Destination> {
    let mut places: BTreeSet<Destination> = listed.iter().copied().map(Destination::Address).collect();
    for interface in chosen {
        let by_broadcast = ways.broadcast && interface.kind.broadcast;
        let by_multicast = ways.multicast && interface.kind.multicast;
        if by_broadcast {
            let to = |ip: Ipv4Addr| Destination::Address(SocketAddr::from((ip, port)));
            places.extend(broadcasts(interface).map(to));
        } else if by_multicast {
            places.extend(addresses_v4(interface).next().map(Destination::GroupV4));
        }
        if by_multicast && interface.addresses.iter().any(|net| matches!(net, IpNet::V6(_))) {
            let group = SocketAddrV6::new(GROUP_V6, port, 0, interface.index);
            places.insert(Destination::Address(SocketAddr::V6(group)));
        }
    }
    places.into_iter().collect()
}

/// Returns the addresses under which others reach this host, IPv4 first; none of the link alone, whose scope others do
/// not know.
#[must_use]
pub fn reached_at(chosen: &[Interface], port: u16) -> Vec<SocketAddr> {
    let addresses = chosen.iter().flat_map(|interface| &interface.addresses).map(IpNet::addr);
    let mut reached: Vec<SocketAddr> = addresses
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .map(|address| SocketAddr::new(address, port))
        .collect();
    reached.sort_by_key(SocketAddr::is_ipv6);
    reached.truncate(ADDRESSES_MAX);
    reached
}

/// Returns the broadcast addresses of an interface's networks.
pub fn broadcasts(interface: &Interface) -> impl Iterator<Item = Ipv4Addr> {
    let networks = interface.addresses.iter().filter_map(|net| match net {
        // RFC 3021: two addresses need no broadcast.
        IpNet::V4(net) if net.prefix_len() <= 30 => Some(net.broadcast()),
        IpNet::V4(_) | IpNet::V6(_) => None,
    });
    networks.filter(|_| interface.kind.broadcast)
}

fn addresses_v4(interface: &Interface) -> impl Iterator<Item = Ipv4Addr> {
    interface.addresses.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    })
}

/// Tells neighbours and listed peers from everybody else.
#[must_use]
pub fn origin(from: SocketAddr, chosen: &[Interface], listed: &[SocketAddr]) -> Origin {
    let on = |interface: &Interface| match from {
        SocketAddr::V6(from) if from.ip().is_unicast_link_local() => {
            from.scope_id() == interface.index
                && interface.addresses.iter().any(|net| matches!(net, IpNet::V6(_)))
        }
        _ => interface.addresses.iter().any(|net| net.contains(&from.ip())),
    };
    if chosen.iter().any(on) {
        Origin::OnLink
    } else if listed.iter().any(|peer| peer.ip() == from.ip()) {
        Origin::Listed
    } else {
        Origin::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: Kind =
        Kind { up: true, loopback: false, point_to_point: false, broadcast: true, multicast: true };
    const BOTH: Ways = Ways { broadcast: true, multicast: true };

    #[test]
    fn interfaces_with_neighbours_are_chosen_but_not_the_one_towards_the_core() {
        let all = vec![
            interface("lo", 1, Kind { loopback: true, ..LAN }, &["127.0.0.1/8"]),
            interface("lan0", 2, LAN, &["10.1.0.5/24"]),
            interface("wan0", 3, LAN, &["192.0.2.5/24"]),
            interface("off0", 4, Kind { up: false, ..LAN }, &["10.2.0.5/24"]),
            interface("vpn0", 5, Kind { point_to_point: true, ..LAN }, &["10.3.0.5/24"]),
            interface("new0", 6, LAN, &[]),
        ];
        let core_side = [IpAddr::from([192, 0, 2, 5])];
        assert_eq!(names(&choose(all.clone(), &[], &core_side)), ["lan0"]);
        assert_eq!(names(&choose(all.clone(), &[], &[])), ["lan0", "wan0"]);
        let named = ["wan0", "lo", "off0"].map(str::to_owned);
        assert_eq!(
            names(&choose(all.clone(), &named, &core_side)),
            ["lo", "wan0"],
            "names are taken at their word"
        );
        let only = vec![all[2].clone()];
        assert_eq!(names(&choose(only, &[], &core_side)), ["wan0"], "no others remain");
    }

    #[test]
    fn an_ask_goes_one_way_into_each_network_of_each_family() {
        let lan = interface("lan0", 2, LAN, &["10.1.0.5/24", "10.1.0.6/24", "fd00::5/64", "fe80::5/64"]);
        let listed = [address("10.9.0.1:7747")];
        let to = |chosen: &Interface, ways| destinations(std::slice::from_ref(chosen), ways, &listed, 7_747);
        let broadcast = Destination::Address(address("10.1.0.255:7747"));
        let group_v6 = Destination::Address(SocketAddr::V6(SocketAddrV6::new(GROUP_V6, 7_747, 0, 2)));
        let one = Destination::Address(listed[0]);
        assert_eq!(to(&lan, BOTH), [broadcast, one, group_v6]);
        let only_multicast = Ways { broadcast: false, ..BOTH };
        let group_v4 = Destination::GroupV4(Ipv4Addr::new(10, 1, 0, 5));
        assert_eq!(to(&lan, only_multicast), [one, group_v6, group_v4]);
        let without = Interface { kind: Kind { broadcast: false, ..LAN }, ..lan.clone() };
        assert_eq!(to(&without, BOTH), [one, group_v6, group_v4]);
        assert_eq!(to(&lan, Ways { broadcast: false, multicast: false }), [one]);
        let pair = interface("p2p0", 3, LAN, &["10.1.0.4/31"]);
        assert_eq!(to(&pair, Ways { multicast: false, ..BOTH }), [one]);
    }

    #[test]
    fn only_neighbours_and_listed_peers_are_heard() {
        let lan = [interface("lan0", 2, LAN, &["10.1.0.5/24", "fe80::5/64", "fd00::5/64"])];
        let listed = [address("10.9.0.1:7747")];
        let of = |from: &str| origin(address(from), &lan, &listed);
        assert_eq!(of("10.1.0.77:9"), Origin::OnLink);
        assert_eq!(of("[fd00::77]:9"), Origin::OnLink);
        assert_eq!(of("[fe80::77%2]:9"), Origin::OnLink);
        assert_eq!(of("[fe80::77%3]:9"), Origin::Elsewhere, "of another network");
        assert_eq!(of("10.9.0.1:9"), Origin::Listed);
        assert_eq!(of("10.9.0.2:9"), Origin::Elsewhere);
        assert_eq!(of("[2001:db8::1]:9"), Origin::Elsewhere);
    }

    fn interface(name: &str, index: u32, kind: Kind, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Interface { name: name.to_owned(), index, kind, addresses }
    }

    fn names(chosen: &[Interface]) -> Vec<&str> {
        chosen.iter().map(|interface| interface.name.as_str()).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
