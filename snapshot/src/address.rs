//! Which addresses may be called: judged after a name was resolved and right before a connection is made, so that no
//! answer of a name server leads inside. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address may be called: never unspecified, multicast or link-local (cloud metadata lives there), loopback
/// only where `allow_loopback`. Private addresses are normal: models run inside.
pub fn may_call(address: IpAddr, allow_loopback: bool) -> bool {
    match embedded_v4(address) {
        IpAddr::V4(v4) => {
            let reserved = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_link_local();
            // All of 0.0.0.0/8 reaches the host itself on some systems.
            !reserved && v4.octets()[0] != 0 && (allow_loopback || !v4.is_loopback())
        }
        IpAddr::V6(v6) => {
            let reserved =
                v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() || is_cloud_metadata(v6);
            !reserved && (allow_loopback || !v6.is_loopback())
        }
    }
}

/// The IPv4 address that an IPv6 address leads to, where it does: mapped, compatible, NAT64 (64:ff9b::/96), 6to4.
fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let low = Ipv4Addr::new((s[6] >> 8) as u8, s[6] as u8, (s[7] >> 8) as u8, s[7] as u8);
    let mapped = s[..5] == [0; 5] && s[5] == 0xffff;
    let compatible = s[..6] == [0; 6] && !(s[6] == 0 && s[7] <= 1);
    let nat64 = s[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    if mapped || compatible || nat64 {
        return IpAddr::V4(low);
    }
    if s[0] == 0x2002 {
        return IpAddr::V4(Ipv4Addr::new((s[1] >> 8) as u8, s[1] as u8, (s[2] >> 8) as u8, s[2] as u8));
    }
    address
}

/// fd00:ec2::254, the one metadata address that is not link-local.
fn is_cloud_metadata(address: Ipv6Addr) -> bool {
    address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_to_metadata_or_nowhere_are_never_called() {
        for text in [
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert!(!may_call(address, true), "{text}");
        }
    }

    #[test]
    fn loopback_is_called_only_where_it_is_allowed() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "2002:7f00:1::"] {
            let address: IpAddr = text.parse().unwrap();
            assert!(!may_call(address, false), "{text}");
            assert!(may_call(address, true), "{text}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_called() {
        for text in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "1.1.1.1", "2606:4700::1111", "fd12::1"] {
            assert!(may_call(text.parse().unwrap(), false), "{text}");
        }
    }
}
