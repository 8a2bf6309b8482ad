package packet

import "fmt"

// Reason says why a receiver leaves the group.
type Reason uint8

// Reasons for leaving.
const (
	ReasonNone      Reason = iota
	ReasonNetwork          // its network loses too much at the others' rate
	ReasonDisk             // its disk is too slow for the others' rate
	ReasonStuck            // it makes no progress
	ReasonForged           // somebody in the session forges data
	ReasonSilence          // it heard the session, and then nothing at all
	ReasonEnded            // the session ended before it was done
	ReasonDropped          // an admin dropped it
	ReasonRejoined         // it has another place by now
	ReasonSnooping         // it hears link-local multicast, but not the group
	ReasonMulticast        // it hears unicast, but no multicast
	ReasonMTU              // it hears the group, but no full packets
	ReasonFirewall         // it hears nothing by UDP
	ReasonSubnet           // it hears no multicast and is not in the sender's subnet
	ReasonWireless         // its interface is Wi-Fi
)

// reasons have a code for programs, a text for people, and what an admin can do where there is something.
var reasons = [...]struct{ code, text, hint string }{
	ReasonNone:    {"", "none", ""},
	ReasonNetwork: {"slow-network", "its network cannot keep the pace", "look for a slow switch port or a bad cable"},
	ReasonDisk:    {"slow-disk", "its disk cannot keep the pace", ""},
	ReasonStuck:   {"stuck", "it made no progress", ""},
	ReasonForged: {"forged", "somebody in the session forges data",
		"find the machine that does it: it has the session's key"},
	ReasonSilence:  {"silence", "no packet of the session arrives any more", ""},
	ReasonEnded:    {"ended", "the session ended", ""},
	ReasonDropped:  {"dropped", "an admin dropped it", ""},
	ReasonRejoined: {"rejoined", "it has joined again", ""},
	ReasonSnooping: {"igmp-snooping",
		"the session's group does not arrive, link-local multicast does: " +
			"probably a switch with IGMP snooping and no querier, or Wi-Fi that drops multicast",
		"switch on an IGMP querier in one switch of the network, or IGMP snooping off in all; " +
			"run the sender as root, then it is a querier itself; use a cable instead of Wi-Fi"},
	ReasonMulticast: {"no-multicast",
		"unicast UDP arrives, multicast does not: probably a firewall, or Wi-Fi or a switch that drops multicast",
		"let UDP port 9068 to 224.0.0.0/4 pass; use a cable instead of Wi-Fi"},
	ReasonMTU: {"mtu", "small packets of the group arrive, full ones do not: probably an MTU below 1500 on the way",
		"look for a VPN, a tunnel or a switch port with a smaller MTU between sender and receiver"},
	ReasonFirewall: {"firewall",
		"no UDP packet arrives: probably a firewall on the receiver, on the sender or between them",
		"let UDP pass from the sender to port 9068, and between the sender's and the receivers' ports above 1023"},
	ReasonSubnet: {"other-subnet", "the sender is in another subnet, and multicast stays in its own",
		"send from an interface in the receivers' subnet"},
	ReasonWireless: {"wifi", "its interface is Wi-Fi, where multicast is slow and gets lost", "use a cable"},
}

func (r Reason) String() string {
	if int(r) >= len(reasons) {
		return fmt.Sprintf("reason %d", uint8(r))
	}
	return reasons[r].text
}

// Cause is the reason as a word for programs; empty for none.
func (r Reason) Cause() string {
	if int(r) >= len(reasons) {
		return "unknown"
	}
	return reasons[r].code
}

// Hint is what can be done about it; empty where nothing can, or need.
func (r Reason) Hint() string {
	if int(r) >= len(reasons) {
		return ""
	}
	return reasons[r].hint
}
