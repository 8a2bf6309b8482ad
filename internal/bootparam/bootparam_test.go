package bootparam

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandLine(t *testing.T) {
	tests := map[string]struct {
		params Params
		want   string
	}{
		"empty": {},
		"all": {
			Params{Server: "https://10.99.0.1:8443", Token: "3f9c-A_~.", MAC: "52:54:00:12:34:56", Debug: true},
			"clonecast.server=https://10.99.0.1:8443 clonecast.token=3f9c-A_~. " +
				"clonecast.mac=52:54:00:12:34:56 clonecast.debug=1",
		},
		"IPv6":      {Params{Server: "https://[fd99::1]:8443"}, "clonecast.server=https://[fd99::1]:8443"},
		"injection": {Params{Token: "a b\n${x}\"||#%"}, "clonecast.token=a%20b%0A%24%7Bx%7D%22%7C%7C%23%25"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.params.CommandLine(); got != test.want {
				t.Errorf("CommandLine() = %q, want %q", got, test.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	tests := map[string]struct {
		line string
		want Params
	}{
		"nothing":    {"", Params{}},
		"foreign":    {"console=ttyS0 quiet BOOTIF=01-52 clonecast=1 xclonecast.token=a", Params{}},
		"newer key":  {"clonecast.colour=%zz clonecast.debug=1", Params{Debug: true}},
		"bare debug": {"clonecast.debug", Params{Debug: true}},
		"debug off":  {"clonecast.debug clonecast.debug=0", Params{}},
		"last wins":  {"clonecast.token=a clonecast.token=b\n", Params{Token: "b"}},
		"upper MAC":  {"clonecast.mac=AA:BB:CC:DD:EE:0F", Params{MAC: "aa:bb:cc:dd:ee:0f"}},
		"escaped": {
			"clonecast.server=https%3A%2F%2fdeploy.school.example",
			Params{Server: "https://deploy.school.example"},
		},
		"empty value": {"clonecast.server= clonecast.token", Params{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(test.line)
			if err != nil {
				t.Fatalf("Parse(%q): %v", test.line, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Parse(%q) (-want +got):\n%s", test.line, diff)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	tests := map[string]struct{ line, want string }{
		"too long":          {strings.Repeat("x", MaxLine+1), "4097 bytes"},
		"long value":        {"clonecast.token=" + strings.Repeat("x", 513), "513 bytes"},
		"cut escape":        {"clonecast.token=a%4", "bad %-escape at byte 1"},
		"bad escape":        {"clonecast.token=%g0", "bad %-escape"},
		"control character": {"clonecast.token=a%0a", "control character"},
		"token charset":     {"clonecast.token=a%20b", "byte 1 is not allowed"},
		"plain http":        {"clonecast.server=http://10.0.0.1", "not an https URL"},
		"path":              {"clonecast.server=https://10.0.0.1/x", "not of the form"},
		"user":              {"clonecast.server=https://u@10.0.0.1", "not of the form"},
		"no host":           {"clonecast.server=https://:8443", "not of the form"},
		"query":             {"clonecast.server=https://a?b", "not of the form"},
		"short MAC":         {"clonecast.mac=52:54:00:12:34", "not a MAC"},
		"MAC letters":       {"clonecast.mac=52:54:00:12:34:5g", "not a MAC"},
		"MAC dashes":        {"clonecast.mac=52-54-00-12-34-56", "not a MAC"},
		"debug":             {"clonecast.debug=yes", "neither 0 nor 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(test.line)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Parse(%.40q): error %v, want one with %q", test.line, err, test.want)
			}
			if got != (Params{}) {
				t.Errorf("Parse(%.40q) = %+v beside the error, want zero", test.line, got)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	if err := (Params{Server: "https://a:1", MAC: "AA:bb:cc:dd:ee:ff"}).Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	if err := (Params{Token: "a b"}).Validate(); err == nil {
		t.Error("Validate accepted a blank in the token")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("console=ttyS0 clonecast.server=https://10.99.0.1:8443 clonecast.token=ab " +
		"clonecast.mac=52:54:00:12:34:56 clonecast.debug")
	f.Add("clonecast.token=%41%")
	f.Add("clonecast.server=https://[fd99::1%25eth0]:8443")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := Parse(line)
		if err != nil {
			if p != (Params{}) {
				t.Fatalf("Parse(%q) = %+v beside error %v", line, p, err)
			}
			return
		}
		again, err := Parse(p.CommandLine())
		if err != nil || again != p {
			t.Fatalf("Parse(%q) = %+v, but its command line %q gives %+v, %v", line, p, p.CommandLine(), again, err)
		}
	})
}

// FuzzCommandLine feeds values that an attacker chose: they stay one word of
// safe bytes each.
func FuzzCommandLine(f *testing.F) {
	f.Add("https://a", "tok en", "52:54:00:12:34:56\nboot")
	f.Fuzz(func(t *testing.T, server, token, mac string) {
		line := Params{Server: server, Token: token, MAC: mac}.CommandLine()
		for i := range len(line) {
			if c := line[i]; !alphanumeric(c) && !strings.ContainsRune(safe+"%= ", rune(c)) {
				t.Fatalf("byte %q in %q", c, line)
			}
		}
		if n := len(strings.Fields(line)); n > 3 {
			t.Fatalf("%d words in %q", n, line)
		}
	})
}
