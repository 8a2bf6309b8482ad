package tftp

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequest(t *testing.T) {
	tests := map[string]struct {
		packet string
		want   request
	}{
		"plain": {"\x00\x01a.bin\x00octet\x00", request{op: opRRQ, name: "a.bin", mode: "octet"}},
		"write": {"\x00\x02a\x00NetASCII\x00", request{op: opWRQ, name: "a", mode: "netascii"}},
		"options": {"\x00\x01a\x00OCTET\x00BlkSize\x001468\x00tsize\x000\x00",
			request{opRRQ, "a", "octet", []option{{"blksize", "1468"}, {"tsize", "0"}}}},
		"half option":      {"\x00\x01a\x00octet\x00blksize\x00", request{op: opRRQ, name: "a", mode: "octet"}},
		"mode without end": {"\x00\x01a\x00octet", request{op: opRRQ, name: "a", mode: "octet"}},
		"padded": {"\x00\x01a\x00octet\x00" + strings.Repeat("\x00", 100),
			request{opRRQ, "a", "octet", make([]option, 16)}},
		"cut option":   {"\x00\x01a\x00octet\x00tsize\x000", request{op: opRRQ, name: "a", mode: "octet"}},
		"empty option": {"\x00\x01a\x00octet\x00\x00\x00", request{opRRQ, "a", "octet", []option{{}}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseRequest([]byte(test.packet))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(request{}, option{})); diff != "" {
				t.Errorf("parseRequest(%q) (-want +got):\n%s", test.packet, diff)
			}
		})
	}
	for _, bad := range []string{
		"", "\x00", "\x00\x01", "\x00\x03\x00\x01abc", "\x01\x00a\x00octet\x00",
		"\x00\x01a", "\x00\x01\x00octet\x00",
		"\x00\x01a\x00", "\x00\x01" + strings.Repeat("a", 64<<10) + "\x00octet\x00",
	} {
		if r, err := parseRequest([]byte(bad)); err == nil {
			t.Errorf("parseRequest(%.30q) = %+v, want an error", bad, r)
		}
	}
}

func TestNegotiate(t *testing.T) {
	tests := map[string]struct {
		options []option
		want    settings
	}{
		"none": {nil, settings{block: 512, window: 1}},
		"all": {[]option{{"tsize", "0"}, {"blksize", "1024"}, {"windowsize", "4"}, {"timeout", "2"}}, settings{
			1024, 4, 2, []option{{"tsize", "777"}, {"blksize", "1024"}, {"windowsize", "4"}, {"timeout", "2"}}}},
		"clamped": {[]option{{"blksize", "65464"}, {"windowsize", "65535"}}, settings{
			1468, 64, 0, []option{{"blksize", "1468"}, {"windowsize", "64"}}}},
		"out of range": {[]option{{"blksize", "0"}, {"blksize", "7"}, {"blksize", "65535"},
			{"windowsize", "0"}, {"windowsize", "65536"},
			{"timeout", "0"}, {"timeout", "255"}, {"tsize", "-1"}}, settings{block: 512, window: 1}},
		"no numbers": {[]option{{"blksize", "x"}, {"tsize", ""}, {"windowsize", "99999999999999999999"},
			{"timeout", "1.5"}}, settings{block: 512, window: 1}},
		"unknown": {[]option{{"multicast", "1"}, {"", "5"}, {"blksize2", "512"}}, settings{block: 512, window: 1}},
		"first one won": {[]option{{"blksize", "600"}, {"blksize", "700"}}, settings{
			600, 1, 0, []option{{"blksize", "600"}}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := negotiate(test.options, 777)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(settings{}, option{})); diff != "" {
				t.Errorf("negotiate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	data := []byte("aabbccddee") // blocks of 2: five, and the empty sixth
	w := newWindow(data, settings{block: 2, window: 4})
	if w.blocks != 6 || w.last() != 4 ||
		string(w.packet(nil, 2)) != "\x00\x03\x00\x02bb" || string(w.packet(nil, 6)) != "\x00\x03\x00\x06" {
		t.Fatalf("window %+v", w)
	}
	steps := []struct {
		number uint16
		send   bool
		acked  uint64
	}{
		{0, false, 0}, // the start was sent already
		{5, false, 0}, // never sent
		{2, true, 2},  // block 3 was lost
		{2, true, 2},  // and again
		{2, false, 2}, // but only once
		{1, false, 2}, // delayed
		{65535, false, 2},
		{6, true, 6},
	}
	for i, step := range steps {
		if send := w.ack(step.number); send != step.send || w.acked != step.acked {
			t.Fatalf("step %d: ack(%d) = %v with %d acknowledged, want %v with %d",
				i, step.number, send, w.acked, step.send, step.acked)
		}
	}
	if !w.done() {
		t.Error("not done")
	}
	one := newWindow(data, settings{block: 2, window: 1})
	if !one.ack(1) || one.ack(1) {
		t.Error("a repeated acknowledgement was answered in lockstep")
	}
}

// Every block of a file longer than 65535 blocks comes once, in order.
func TestRollover(t *testing.T) {
	for _, size := range []int{1, 5, 64} {
		data := make([]byte, 200000*8+3)
		for i := range data {
			data[i] = byte(i >> 3)
		}
		w := newWindow(data, settings{block: 8, window: size})
		var got []byte
		for !w.done() {
			last := w.last()
			for n := w.acked + 1; n <= last; n++ {
				got = append(got, w.packet(nil, n)[4:]...)
			}
			if !w.ack(uint16(last)) {
				t.Fatalf("window %d: ack of block %d was ignored", size, last)
			}
		}
		if string(got) != string(data) {
			t.Errorf("window %d: content differs", size)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00OCTET\x00BlkSize\x001468\x00tsize\x000\x00windowsize\x0064\x00timeout\x001\x00"))
	f.Add([]byte("\x00\x01../../etc/shadow\x00octet\x00blksize\x000\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if r.name == "" || len(r.options) > maxOptions {
			t.Fatalf("parseRequest(%q) = %+v", b, r)
		}
		s := negotiate(r.options, 1000)
		if s.block < minBlock || s.block > maxBlock || s.window < 1 || s.window > maxWindow ||
			s.timeout < 0 || s.timeout > maxTimeoutSec || len(s.accept) > 4 {
			t.Fatalf("negotiate(%+v) = %+v", r.options, s)
		}
	})
}

// FuzzWindow feeds any acknowledgements: the window never goes back, never past
// the end, and never sends what is not in the file.
func FuzzWindow(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x02\xff\xff"), uint8(3), uint16(1000))
	f.Fuzz(func(t *testing.T, acks []byte, size uint8, length uint16) {
		w := newWindow(make([]byte, length), settings{block: 8, window: 1 + int(size)%maxWindow})
		for ; len(acks) >= 2 && !w.done(); acks = acks[2:] {
			before := w.acked
			w.ack(uint16(acks[0])<<8 | uint16(acks[1]))
			if w.acked < before || w.acked > w.blocks || w.last() > w.blocks || w.last()-w.acked > uint64(w.size) {
				t.Fatalf("window %+v after %d", w, before)
			}
			for n := w.acked + 1; n <= w.last(); n++ {
				w.packet(nil, n)
			}
		}
	})
}

func TestFind(t *testing.T) {
	s := &Server{files: map[string][]byte{
		"undionly.kpxe": []byte("u"), "undionly": []byte("short"), "snponly.efi": []byte("s"),
	}}
	for raw, want := range map[string]string{
		"undionly.kpxe": "u", "/undionly.kpxe": "u", `\undionly.kpxe`: "u", "./undionly.kpxe": "u", `.\undionly.kpxe`: "u",
		"//undionly.kpxe": "u", "/./undionly.kpxe": "u", `\\undionly.kpxe`: "u",
		"undionly.kpxe\xff": "u", "undionly.kpxe\xff\x00": "u", `\SNPONLY.EFI`: "s", "undionly.kpxe ": "u",
		"undionly.kpxe\n": "u", "undionly.kpxeB\x0910.99.0.1": "u", "undionly.kpxea\x11": "u", "undionly\xff": "short",
		"../snponly.efi": "", "/../../snponly.efi": "", `x\..\snponly.efi`: "", "..": "", ".": "",
		"undionly.kpx": "", "undionly.kpxex": "", "x/undionly.kpxe": "", "": "", "\xff": "", "/": "", "etc/passwd\xff": "",
	} {
		if _, data, ok := s.find(raw); string(data) != want || ok != (want != "") {
			t.Errorf("find(%q) = %q, %v, want %q", raw, data, ok, want)
		}
	}
}

// The forms of requests that iPXE, EDK2, Intel's ROM and curl send.
func TestIPXE(t *testing.T) {
	for request, want := range map[string]bool{
		"blksize 1432 tsize 0": true, "blksize 1468 tsize 0 multicast _": true,
		"tsize 0 blksize 1468": false, "tsize 0 blksize 1468 windowsize 4": false, "blksize 1456": false, "tsize 0": false,
		"tsize 0 blksize 512 timeout 6": false, "blksize 1432 tsize 0 windowsize 4": false, "": false,
	} {
		var options []option
		for words := strings.Fields(request); len(words) > 0; words = words[2:] {
			options = append(options, option{words[0], words[1]})
		}
		if got := ipxe(options); got != want {
			t.Errorf("ipxe(%s) = %v, want %v", request, got, want)
		}
	}
}

// FuzzFind looks for files by any name: what is found is one of them, and an exact name always is.
func FuzzFind(f *testing.F) {
	s := &Server{files: map[string][]byte{"undionly.kpxe": []byte("u"), "a/b.efi": []byte("b")}}
	for _, seed := range []string{"undionly.kpxe\xff", `.\a\b.efi`, "//a/./b.efi", "\x00", "../../etc/shadow"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, data, ok := s.find(raw)
		if ok != (data != nil) || ok && string(s.files[name]) != string(data) {
			t.Fatalf("find(%q) = %q, %q, %v", raw, name, data, ok)
		}
		if want, exact := s.files[raw]; exact && string(want) != string(data) {
			t.Fatalf("find(%q) = %q", raw, name)
		}
	})
}
