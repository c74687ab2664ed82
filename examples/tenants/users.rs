//! The users of both companies.

/// A user, who belongs to one company.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) tenant: &'static str,
    // Printed in this demo's documentation; a real application keeps slow hashes.
    password: &'static str,
}

static USERS: [User; 4] = [
    User { name: "ann", tenant: "north", password: "ann-demo" },
    User { name: "ben", tenant: "north", password: "ben-demo" },
    User { name: "cid", tenant: "south", password: "cid-demo" },
    User { name: "dee", tenant: "south", password: "dee-demo" },
];

pub(crate) fn find(name: &str) -> Option<&'static User> {
    USERS.iter().find(|user| user.name == name)
}

/// The user of this name, when the password is right.
pub(crate) fn with_password(name: &str, password: &str) -> Option<&'static User> {
    find(name).filter(|user| user.password == password)
}
