package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clonecast/initramfs/console"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadKeys(t *testing.T) {
	key := strings.Repeat("ab", 32)
	keys, err := readKeys(write(t, key+"\n\n"+strings.Repeat("01", 32)+"\n"))
	if err != nil || len(keys) != 2 || keys[0][0] != 0xab || keys[1][31] != 1 {
		t.Errorf("readKeys = %x, %v", keys, err)
	}
	for _, bad := range []string{"ab\n", key + "ff\n", strings.Repeat("zz", 32)} {
		if _, err := readKeys(write(t, bad)); err == nil {
			t.Errorf("readKeys of %q succeeds", bad)
		}
	}
}

func TestReadCA(t *testing.T) {
	for _, bad := range []string{"", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := readCAs(write(t, bad)); err == nil {
			t.Errorf("readCA of %q succeeds", bad)
		}
	}
}

// The test program is the child: it does what the variable says.
const childVariable = crashVariable

func TestMain(m *testing.M) {
	if os.Args[0] == "clonecast-init" { // as runChild starts it
		switch os.Getenv(childVariable) {
		case "panic":
			go panic("a bug")
			time.Sleep(time.Minute)
		case "reboot":
			os.Exit(exitReboot)
		case "zero":
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func TestRunChild(t *testing.T) {
	if code, err := runChild("reboot"); code != exitReboot || err != nil {
		t.Errorf("runChild(reboot) = %d, %v", code, err)
	}
	if _, err := runChild("panic"); err == nil || !strings.Contains(err.Error(), "panic: a bug") {
		t.Errorf("runChild(panic) = %v, want the panic", err)
	}
	if _, err := runChild("zero"); err == nil {
		t.Error("a child that ends without a reason is no error")
	}
}

func TestWait(t *testing.T) {
	var screen bytes.Buffer
	wait(console.New(time.Now, nil, []io.Writer{&screen}), 0)
	if screen.String() != "restart\r\n" {
		t.Errorf("screen = %q", &screen)
	}
}
