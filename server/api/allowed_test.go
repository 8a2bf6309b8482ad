package api

import (
	"errors"
	"strings"
	"testing"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/protocol"
)

// What a machine may call while it does which operation. "-" stands for a machine that has none. Calls of every boot
// are not in it: next, status, logoff.
var allowedCalls = map[string]string{ // by route: the kinds of operations
	"POST " + protocol.PathMissing:                       "capture cast",
	"POST " + protocol.PathFrame:                         "capture cast",
	"POST " + protocol.PathPublish:                       "capture cast",
	"POST " + protocol.PathOutline:                       "cast",
	"POST " + protocol.PathPart:                          "cast",
	"POST " + protocol.PathFollow:                        "follow",
	"GET " + protocol.PathFollowOutline + "{cast}":       "follow",
	"GET " + protocol.PathFollowPart + "{cast}/{number}": "follow",
	"GET " + protocol.PathManifest:                       "deploy follow",
	"POST " + protocol.PathChunks:                        "deploy follow",
	"GET " + protocol.PathParent:                         "deploy follow",
	"POST " + protocol.PathDeltas:                        "deploy follow",
	"GET " + protocol.PathSession:                        "deploy follow",
	"POST " + protocol.PathSessionJoin:                   "deploy follow",
	"GET " + protocol.PathSessionBlocks:                  "deploy follow",
	"POST " + protocol.PathSessionReport:                 "deploy follow",
	"POST " + protocol.PathTable + "{disk}":              "deploy follow",
	"POST " + protocol.PathNext:                          "- capture cast deploy follow",
	"POST " + protocol.PathStatus:                        "- capture cast deploy follow",
	"POST " + protocol.PathLogoff:                        "- capture cast deploy follow",
}

// Every call of a machine, while it does every kind of operation, is let through or refused as the table says. A
// call that is let through may complain of its body or of what is not there yet.
func TestAllowedCalls(t *testing.T) {
	s := newSite(t)
	a, b, c, d, none := s.pc("a", 1), s.pc("b", 2), s.pc("c", 3), s.pc("d", 4), s.pc("e", 5)
	lab := s.image(a)
	s.order(Order{Kind: "capture", Machines: []string{"a"}, Image: "other"})
	s.order(Order{Kind: OrderCast, From: "b", Machines: []string{"c"}, Image: "cast"})
	s.order(Order{Kind: "deploy", Machines: []string{"d"}, Image: lab, Unseen: true})
	s.next(a, protocol.OpCapture)
	s.next(b, protocol.OpCapture)
	s.next(c, protocol.OpFollow)
	s.next(d, protocol.OpDeploy)
	machines := map[string]string{"-": none, "capture": a, "cast": b, "follow": c, "deploy": d}
	parameters := strings.NewReplacer("{disk}", "0", "{cast}", strings.Repeat("00", 32), "{number}", "0")
	for _, pattern := range s.api.Patterns() {
		if s.api.access[pattern] != forMachine {
			continue
		}
		kinds, known := allowedCalls[pattern]
		if !known {
			t.Errorf("%s is not in the table", pattern)
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		if path == protocol.PathNext || path == protocol.PathStatus || path == protocol.PathLogoff {
			continue // they change what the machines do
		}
		for kind, token := range machines {
			_, err := s.call(s.tls, token, method, parameters.Replace(path), []byte("{}"))
			var p *protocol.Problem
			refused := errors.As(err, &p) && (p.Code == protocol.CodeForbidden || p.Code == protocol.CodeCancelled)
			want := contains(kinds, kind)
			if p != nil && p.Code == protocol.CodeInternal {
				t.Errorf("%s during %s: %v", pattern, kind, err)
			}
			if refused == want {
				t.Errorf("%s during %s: %v; want it let through: %v", pattern, kind, err, want)
			}
		}
	}
}

func contains(words, word string) bool {
	for _, w := range strings.Fields(words) {
		if w == word {
			return true
		}
	}
	return false
}

// A follower whose reports UDP does not bring reports by HTTPS.
func TestFollowerReports(t *testing.T) {
	s := newSite(t)
	a, b := s.pc("a", 1), s.pc("b", 2)
	s.order(Order{
		Kind: OrderCast, From: "a", Machines: []string{"b"}, Image: "lab", SessionOrder: SessionOrder{Multicast: true},
	})
	s.next(a, protocol.OpCapture)
	s.next(b, protocol.OpFollow)
	d := newDisk(t, "lab", 1, 4)
	s.send(a, d, 0, 4)
	s.part(a, s.outline(a, d), 0, d.ids...)
	var session protocol.Session
	s.must(s.tls, b, "GET", protocol.PathSession+"?from=0", nil, &session)
	q := protocol.SessionJoin{Session: session.Session, Nonce: make([]byte, protocol.NonceSize),
		Need: blocks.FullSet(1).AppendBinary(nil)}
	s.must(s.tls, b, "POST", protocol.PathSessionJoin, q, &protocol.SessionPlace{})
	if _, err := s.call(s.tls, b, "POST", protocol.PathSessionReport, []byte("no packet")); err != nil {
		t.Errorf("a follower's report by HTTPS: %v", err)
	}
}
