"""Makes a signed RPM repository out of Debian packages, for tests of real dnf without a mirror.

The way of a package, and the module that knows about each step:

    apt lists  --apt-->  stanzas  --closure-->  selection  --apt-->  .deb files
    .deb  --deb-->  entries  --convert-->  Package  --maintainer, kernel-->  Package that works
    Packages (and those of base_packages, edge_packages)  --spec, rpmbuild-->  .rpm files
    .rpm files  --signing, repository-->  DIR/repo, DIR/RPM-GPG-KEY-test

Everything between reading a .deb and running rpmbuild is plain values and pure functions.
"""
