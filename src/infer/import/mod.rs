//! Files become graphs here: one folder or file per format.
