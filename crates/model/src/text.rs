//! Text that is written once per connection or more often.

use std::fmt::Write;
use std::net::SocketAddr;

/// Appends `address` as its `Display` does, at a fraction of the cost for IPv4: addresses are most of what is written
/// about a connection.
pub fn push_address(out: &mut String, address: SocketAddr) {
    let SocketAddr::V4(address) = address else {
        // Writing to memory does not fail.
        let _ = write!(out, "{address}");
        return;
    };
    let mut digits = itoa::Buffer::new();
    let [a, b, c, d] = address.ip().octets();
    for (octet, end) in [(a, '.'), (b, '.'), (c, '.'), (d, ':')] {
        out.push_str(digits.format(octet));
        out.push(end);
    }
    out.push_str(digits.format(address.port()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_as_they_always_do() {
        for text in [
            "0.0.0.0:0",
            "10.244.1.2:15008",
            "255.255.255.255:65535",
            "[::1]:80",
            "[fd00:10:244::2]:8081",
            "[::ffff:10.0.0.1]:1",
        ] {
            let mut out = "to ".to_owned();
            push_address(&mut out, text.parse().unwrap());
            assert_eq!(out, format!("to {text}"));
        }
    }
}
