//! Names of nodes and sites: the same rules in the configuration, on the command line and in certificates.

use std::fmt;
use std::str::FromStr;

/// Text that cannot name a node or a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to 63 of a-z, 0-9, '.', '-', beginning and ending with a letter or digit")]
pub struct NameError;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(NameError) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// What operators call a node; its certificate's common name.
    NodeName
}
name! {
    /// What operators call the edges that share a LAN.
    SiteName
}

impl From<&NodeName> for SiteName {
    /// A node that names no site is a site of its own.
    fn from(node: &NodeName) -> Self {
        Self(node.0.clone())
    }
}

/// No '/' and no '%' so that `wanigan:SITE/NAME` needs no escapes; no leading '.' or '-' so that a name is never
/// a hidden file or an option.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte))
        && outer(bytes.first())
        && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_escapes_or_look_like_options_and_paths_are_refused() {
        for text in ["", "-x", ".x", "x.", "A", "a/b", "a b", "..", "ü", "a_b", &"a".repeat(64)] {
            assert_eq!(text.parse::<NodeName>(), Err(NameError), "{text}");
        }
        for text in ["a", "lisbon-gw", "core.hq.example", "7", &"a".repeat(63)] {
            assert_eq!(text.parse::<NodeName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
    }
}
