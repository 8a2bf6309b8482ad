package diskrule

import (
	"errors"
	"strings"
	"testing"

	"clonecast/internal/quantity"
)

var (
	ssd = Disk{
		Name: "sda", Model: "Samsung SSD 870 EVO 500GB", Serial: "S62BNX0R", WWN: "naa.5002538F00000001",
		Bus: "sata", Size: 500107862016,
	}
	nvme = Disk{
		Name: "nvme0n1", Model: "KIOXIA, Inc. KBG40", Serial: "61FA|X", WWN: "eui.00000000000000018ce38e0400000001",
		Bus: "nvme", Size: 2000398934016,
	}
	stick = Disk{Name: "sdb", Model: "Ultra Fit", Serial: "4C53", Bus: "usb", Size: 32 * quantity.GiB, Removable: true}
	box   = Disk{Name: "sdc", Model: "My Passport", Serial: "WX11", Bus: "usb", Size: 1000204886016}
	card  = Disk{
		Name: "mmcblk0", Model: "SD32G", Serial: "0xaaa",
		Bus: "mmc", Size: 32 * quantity.GiB, Removable: true, ReadOnly: true,
	}
	plain = Disk{Name: "vda", Bus: "virtio", Size: 20 * quantity.GiB}
)

func TestMismatch(t *testing.T) {
	all := []Disk{ssd, nvme, stick, box, card, plain}
	for rule, want := range map[string]string{ // names of those that fit
		"":                                  "sda nvme0n1 vda",
		"only-internal":                     "sda nvme0n1 vda",
		"serial=S62BNX0R":                   "sda",
		"serial=s62bnx0r":                   "sda",
		"serial = S62BNX0R ":                "sda",
		"serial=S62":                        "",
		"serial~S62*":                       "sda",
		"serial=S62*":                       "",
		`serial=61FA\|X`:                    "nvme0n1",
		"serial=61FA|X":                     "",
		"serial=4C53":                       "sdb",
		"serial=4C53,only-internal":         "",
		"serial=4C53|WX11|0xAAA":            "sdb sdc mmcblk0",
		"wwn=0x5002538f00000001":            "sda",
		"wwn=5002538F00000001":              "sda",
		"wwn=naa.5002538f00000001":          "sda",
		"wwn~naa.5002*":                     "sda",
		"wwn~*8ce38e0400000001":             "nvme0n1",
		"model~samsung*":                    "sda",
		"model~*ssd*evo*":                   "sda",
		"model~*s?d*":                       "sda",
		"model=samsung ssd  870 evo 500gb":  "sda",
		`model~kioxia\, inc.*`:              "nvme0n1",
		"model~ultra*":                      "",
		"model~ultra*,bus=usb":              "sdb",
		"model~*":                           "sda nvme0n1 vda",
		"size>=100G":                        "sda nvme0n1",
		"size>=2T":                          "nvme0n1",
		"size<=2T":                          "sda nvme0n1 vda",
		"size>2T":                           "",
		"size<2T":                           "sda vda",
		"size=500G":                         "sda",
		"size=500G|2TB":                     "sda nvme0n1",
		"size=20GiB":                        "vda",
		"size=21474836480":                  "vda",
		"size<20GiB":                        "",
		"size>=0.4T, size<=0.6 t":           "sda",
		"bus=nvme":                          "nvme0n1",
		"bus=ata":                           "sda",
		"bus=nvme|sata|virtio":              "sda nvme0n1 vda",
		"bus=usb":                           "sdb sdc",
		"bus=usb,removable=no":              "sdc",
		"removable=yes":                     "",
		"removable=yes,bus=usb":             "sdb",
		"removable=no":                      "sda nvme0n1 vda",
		"bus=mmc":                           "",
		"bus=mmc,serial~*":                  "mmcblk0",
		"size>=100G,removable=no,bus=sata|": "error",
	} {
		r, err := Parse(rule)
		if err != nil {
			if want != "error" {
				t.Errorf("Parse(%q): %v", rule, err)
			}
			continue
		}
		var fit []string
		for _, d := range all {
			if why := r.Mismatch(d); why == "" {
				fit = append(fit, d.Name)
			}
		}
		if got := strings.Join(fit, " "); got != want {
			t.Errorf("%q fits %q, want %q", rule, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for rule, want := range map[string]string{
		"sda":                      `"sda" is no condition`,
		"name=sda":                 "unknown name",
		"serial":                   "no condition",
		"serial=":                  "has no value",
		"serial=,bus=usb":          "has no value",
		"serial>=5":                "serial is compared with = or ~",
		"bus~n*":                   "bus is compared with =",
		"bus=isa":                  "unknown bus",
		"removable=maybe":          "yes or no",
		"size~5":                   "size is compared with",
		"size=5X":                  "is no number",
		"size=":                    "has no value",
		"size=-1":                  "is no number",
		"size=1e9":                 "is no number",
		"size=99999999999999T":     "is no number",
		"size>=1G|2G":              "takes alternatives",
		"serial=a,":                "no condition",
		"serial=\xff":              "characters",
		"serial=a\nb":              "characters",
		strings.Repeat("x", 1025):  "at most 1024",
		"only-internal=yes":        "unknown name",
		"size>=1G,,removable=no":   "no condition",
		"model=a|":                 "has no value",
		"serial=abc,model~*,bus=x": "unknown bus",
	} {
		if r, err := Parse(rule); err == nil || !strings.Contains(err.Error(), want) || r.String() != onlyInternal {
			t.Errorf("Parse(%.40q) = %v, %v, want an error with %q", rule, r, err, want)
		}
	}
}

func TestChoose(t *testing.T) {
	rule, err := Parse("size>=100G,removable=no")
	if err != nil {
		t.Fatal(err)
	}
	if i, err := rule.Choose([]Disk{stick, ssd, plain}); err != nil || i != 1 {
		t.Errorf("Choose = %d, %v, want 1", i, err)
	}
	for want, disks := range map[string][]Disk{
		"there is no disk": nil,
		`no disk fits the rule "size>=100G,removable=no": ` +
			`disk without model, serial unknown, 20.0 GiB (vda): its size of 21474836480 bytes is not >=100G; ` +
			`Ultra Fit, serial 4C53, 32.0 GiB (sdb): its size of 34359738368 bytes is not >=100G`: {plain, stick},
		`2 disks fit the rule "size>=100G,removable=no": ` +
			`Samsung SSD 870 EVO 500GB, serial S62BNX0R, 465.8 GiB (sda): fits; ` +
			`KIOXIA, Inc. KBG40, serial 61FA|X, 1.8 TiB (nvme0n1): fits; ` +
			`My Passport, serial WX11, 931.5 GiB (sdc): it is on USB, and the rule has no serial, wwn or bus`: {ssd, nvme, box},
	} {
		_, err := rule.Choose(disks)
		var choice *Error
		if !errors.As(err, &choice) || err.Error() != want || choice.Hint() == "" {
			t.Errorf("Choose = %v\nwant     %s", err, want)
		}
	}
}

// Whatever is parsed means something, says the same when it is parsed again, and never
// reaches a disk on USB unless it is named.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"serial=a|b,wwn~*x?", `model=a\,b\|c\\`, "size>=1.5T,size<9GiB", "bus=nvme|usb,removable=yes", "only-internal",
		`serial~\*\`,
	} {
		f.Add(s, "model", "serial", "usb", int64(1e9))
	}
	f.Fuzz(func(t *testing.T, s, model, serial, bus string, size int64) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q parsed again: %q, %v", r, again, err)
		}
		d := Disk{Model: model, Serial: serial, Bus: bus, Size: quantity.Bytes(size)}
		if (r.Mismatch(d) == "") != (again.Mismatch(d) == "") {
			t.Fatalf("%q parsed again means something else", r)
		}
		if bus == "usb" && r.Mismatch(d) == "" && !r.has(fieldSerial, fieldWWN, fieldBus) {
			t.Fatalf("%q fits a disk on USB", r)
		}
	})
}

// A pattern agrees with the obvious recursive definition.
func FuzzPattern(f *testing.F) {
	f.Add("a*b?c", "axxbxc")
	f.Add("**a*", "bbba")
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 12 || len(s) > 24 {
			return
		}
		parsed := parsePattern(p, true)
		if got, want := parsed.match(s), matchSlowly(parsed, []rune(fold(s))); got != want {
			t.Fatalf("pattern %q on %q = %v, want %v", p, s, got, want)
		}
	})
}

func matchSlowly(p pattern, s []rune) bool {
	switch {
	case len(p) == 0:
		return len(s) == 0
	case p[0] == anyRun:
		return matchSlowly(p[1:], s) || len(s) > 0 && matchSlowly(p, s[1:])
	}
	return len(s) > 0 && (p[0] == anyRune || p[0] == s[0]) && matchSlowly(p[1:], s[1:])
}
