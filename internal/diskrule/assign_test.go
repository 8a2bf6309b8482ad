package diskrule

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/quantity"
)

func TestAssign(t *testing.T) {
	disk := func(model, serial string, size int) Disk {
		return Disk{Name: serial, Model: model, Serial: serial, Bus: "sata", Size: quantity.Bytes(size)}
	}
	want := func(model string, size, need int) Want {
		return Want{model, quantity.Bytes(size), quantity.Bytes(need)}
	}
	small, big := disk("A", "s", 256), disk("B", "b", 1000)
	twins := []Disk{disk("A", "1", 9), disk("A", "2", 9)}
	for name, tc := range map[string]struct {
		rules string // joined by blanks
		disks []Disk
		wants []Want
		got   string // serials, or what the error says
	}{
		"one": {"only-internal", []Disk{small}, []Want{want("X", 100, 100)}, "s"},
		"same models": {"only-internal", []Disk{big, small},
			[]Want{want("A", 256, 200), want("B", 1000, 10)}, "s b"},
		"same sizes": {"only-internal", []Disk{big, small},
			[]Want{want("X", 256, 200), want("Y", 1000, 10)}, "s b"},
		"what fits": {"only-internal", []Disk{small, big},
			[]Want{want("X", 900, 900), want("Y", 200, 200)}, "b s"},
		"both fit both": {"only-internal", []Disk{small, big},
			[]Want{want("X", 100, 100), want("Y", 200, 200)}, "cannot be told"},
		"twins":         {"only-internal", twins, []Want{want("A", 9, 9), want("A", 9, 9)}, "cannot be told"},
		"twins by rule": {"serial=2 serial=1", twins, []Want{want("A", 9, 9), want("A", 9, 9)}, "2 1"},
		"same disk twice": {"serial=1 size<10", twins[:1],
			[]Want{want("A", 9, 9), want("A", 9, 9)}, "two rules name the same disk"},
		"too few": {"only-internal", []Disk{small},
			[]Want{want("A", 256, 1), want("B", 256, 1)}, "the image has 2 disks: 1 disk fits the rule"},
		"too many": {"only-internal", []Disk{small, big, disk("C", "c", 5)},
			[]Want{want("A", 256, 1), want("B", 256, 1)}, "3 disks fit the rule"},
		"rules of another number": {"serial=1 serial=2 serial=3", []Disk{small},
			[]Want{want("A", 256, 1), want("B", 256, 1)}, "3 rules are given for 2 disks"},
		"one too small": {"only-internal", []Disk{small, big},
			[]Want{want("X", 900, 900), want("Y", 900, 900)}, "cannot be told"},
	} {
		var rules []Rule
		for _, text := range strings.Fields(tc.rules) {
			r, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, r)
		}
		chosen, err := Assign(rules, tc.disks, tc.wants)
		var got []string
		for _, i := range chosen {
			got = append(got, tc.disks[i].Serial)
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if err == nil && text != tc.got || err != nil && !strings.Contains(text, tc.got) {
			t.Errorf("%s: Assign = %s, want %s", name, text, tc.got)
		}
	}
}

// onlyMatching agrees with trying every order.
func TestOnlyMatching(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	only := 0
	for range 3000 {
		n := 1 + rng.IntN(4)
		var likes [4][4]bool
		for i := range likes {
			for j := range likes {
				likes[i][j] = rng.IntN(2) == 0
			}
		}
		var ways [][]int
		var try func(chosen []int)
		try = func(chosen []int) {
			if len(chosen) == n {
				ways = append(ways, slices.Clone(chosen))
				return
			}
			for d := range n {
				if likes[len(chosen)][d] && !slices.Contains(chosen, d) {
					try(append(chosen, d))
				}
			}
		}
		try(nil)
		disks := []int{0, 1, 2, 3}[:n]
		got := onlyMatching(disks, n, func(w, d int) bool { return likes[w][d] })
		if len(ways) == 1 {
			only++
			if !slices.Equal(got, ways[0]) {
				t.Fatalf("%v: got %v, the only way is %v", likes, got, ways[0])
			}
		} else if got != nil {
			t.Fatalf("%v: got %v of %d ways", likes, got, len(ways))
		}
	}
	if only < 100 {
		t.Errorf("only %d cases had a single way", only)
	}
}
