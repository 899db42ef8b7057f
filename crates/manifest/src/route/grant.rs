//! ReferenceGrant.

use crate::fields::fields;

fields! {
    /// What a ReferenceGrant says.
    ReferenceGrantSpec {
        from: Vec<GrantFrom>,
        to: Vec<GrantTo>,
    }

    /// Who may name what is granted.
    GrantFrom {
        group: String,
        kind: String,
        namespace: String,
    }

    /// What may be named.
    GrantTo {
        group: String,
        kind: String,
        /// All of that kind if absent.
        name: Option<String>,
    }
}
