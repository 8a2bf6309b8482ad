// Package bringup turns a bare kernel into a machine with devices, disks and a
// network: what PID 1 does before there is anybody to talk to.
//
// Order: Mount, SeedEntropy, SetClock, Loader.ColdPlug (modules for the devices of
// this machine), Connect (the first interface that reaches the server), Inventory.
//
// Modules are found as modprobe does: a device's modalias is matched against the
// patterns of modules.alias, what a module needs stands in modules.dep, what should
// be loaded with it in modules.softdep (kmod's modules.dep(5), modprobe.d(5)).
// A new module can make new devices appear, so this repeats until nothing is new.
//
// Connect works on all interfaces side by side: up, wait for a link, DHCP, dial the
// server through that interface. A dead or foreign network costs nothing but its own
// time. The address that DHCP gives is never trusted for more than reaching the server:
// who the server is is proven by TLS.
//
// Not guaranteed: a device that shows up only after the network is there is served by
// Loader.Watch, which looks again every second.
package bringup
