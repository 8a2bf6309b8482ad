package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sh runs a command line in a directory.
func sh(t *testing.T, dir, line string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", line)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s (make deps installs what is missing)", line, err, out)
	}
}

func detect(t *testing.T, path string) (Format, bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	format, ok, err := Detect(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return format, ok
}

// disk makes a disk with an MBR and an ext4: disk.raw, and the bare file system: fs.raw.
func disk(t *testing.T) (dir string, content []byte) {
	t.Helper()
	dir = t.TempDir()
	sh(t, dir, `truncate -s 6M fs.raw
mkfs.ext4 -q -F fs.raw
truncate -s 8M disk.raw
printf 'label: dos\nstart=2048,size=12288\n' | sfdisk -q disk.raw
dd if=fs.raw of=disk.raw bs=1M seek=1 conv=notrunc status=none`)
	content, err := os.ReadFile(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, content
}

// Every format is named in a file that its own tool made, and the command that is told gives the disk back.
func TestFormatsOfRealTools(t *testing.T) {
	for _, c := range []struct {
		make, file, name string
		back             string // the file with the disk's bytes after the command; "" means that it makes none
	}{
		{"qemu-img convert -O qcow disk.raw 'a b'", "a b", "a qcow image", "a b.raw"},
		{"qemu-img convert -O qcow2 disk.raw x.img", "x.img", "a qcow2 image", "x.img.raw"},
		{"qemu-img convert -O qcow2 -o compat=0.10 disk.raw x", "x", "a qcow2 image", "x.raw"},
		{"qemu-img convert -O qed disk.raw -- -x", "-x", "a QED image", "-x.raw"},
		{"qemu-img convert -O vmdk disk.raw x", "x", "a VMDK image", "x.raw"},
		{"qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw x", "x", "a VMDK image", "x.raw"},
		{"qemu-img convert -O vmdk -o subformat=monolithicFlat disk.raw x.vmdk", "x.vmdk",
			"the descriptor of a VMDK image", "x.vmdk.raw"},
		{"qemu-img convert -O vmdk -o subformat=twoGbMaxExtentSparse disk.raw x.vmdk", "x.vmdk",
			"the descriptor of a VMDK image", "x.vmdk.raw"},
		{"qemu-img convert -O vpc -o force_size=on disk.raw x", "x", "a VHD image", "x.raw"},
		{"qemu-img convert -O vpc -o subformat=fixed,force_size=on disk.raw x", "x", "a VHD image of fixed size",
			"x.raw"},
		{"qemu-img convert -O vhdx disk.raw x", "x", "a VHDX image", "x.raw"},
		{"qemu-img convert -O vdi disk.raw \"it's\"", "it's", "a VDI image", "it's.raw"},
		{"qemu-img convert -O parallels disk.raw x", "x", "a Parallels image", "x.raw"},
		{"gzip -c disk.raw > x", "x", "compressed with gzip", "x.raw"},
		{"gzip -k disk.raw; rm disk.raw", "disk.raw.gz", "compressed with gzip", "disk.raw"},
		{"xz -c disk.raw > x", "x", "compressed with xz", "x.raw"},
		{"xz disk.raw", "disk.raw.xz", "compressed with xz", "disk.raw"},
		{"zstd -q --rm disk.raw", "disk.raw.zst", "compressed with zstd", "disk.raw"},
		{"zstd -q disk.raw -o x", "x", "compressed with zstd", "x.raw"},
		{"bzip2 disk.raw", "disk.raw.bz2", "compressed with bzip2", "disk.raw"},
		{"bzip2 < /dev/null > x", "x", "compressed with bzip2", ""},
		{"lz4 -q --rm disk.raw disk.raw.lz4", "disk.raw.lz4", "compressed with lz4", "disk.raw.lz4.raw"},
		{"lz4 -q -l disk.raw x", "x", "compressed with lz4", "x.raw"},
		{"zip -q x disk.raw; rm disk.raw", "x.zip", "a ZIP archive", "disk.raw"},
		{"tar -cf x disk.raw; rm disk.raw", "x", "a tar archive", "disk.raw"},
		{"tar -H pax -cf x disk.raw; rm disk.raw", "x", "a tar archive", "disk.raw"},
		{"touch vm.ovf; tar -H ustar -cf x.ova vm.ovf disk.raw", "x.ova", "an OVA archive", ""},
		{"partclone.ext4 -q -L /dev/null -c -s fs.raw -o x", "x", "a partclone image", ""},
		{"truncate -s 8M n; mkfs.ntfs -qFf n >/dev/null; ntfsclone -q -s -O x n", "x", "an ntfsclone image", ""},
	} {
		t.Run(c.make, func(t *testing.T) {
			dir, want := disk(t)
			sh(t, dir, c.make)
			format, ok := detect(t, filepath.Join(dir, c.file))
			if !ok || format.Name != c.name {
				t.Fatalf("Detect = %q, %v, want %q", format.Name, ok, c.name)
			}
			if c.back == "" {
				return
			}
			sh(t, dir, format.Convert(c.file))
			if got, err := os.ReadFile(filepath.Join(dir, c.back)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %v, %d bytes, want the disk's %d", format.Convert(c.file), err, len(got), len(want))
			}
		})
	}
}

// What belongs on a disk is no container, nor is a disk whose first or last bytes look like one.
func TestDisksAreNoContainers(t *testing.T) {
	for _, c := range []struct{ name, make string }{
		{"MBR", "mv disk.raw x"},
		{"bare ext4", "mv fs.raw x"},
		{"zeroes", "truncate -s 1M x"},
		{"empty", ": > x"},
		{"one byte", "printf Q > x"},
		{"GPT", "truncate -s 8M x; printf 'label: gpt\\nstart=2048\\n' | sfdisk -q x"},
		{"swap", "truncate -s 1M x; mkswap -q x 2>/dev/null"},
		{"LUKS", "truncate -s 4M x; printf secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 x -"},
		{"squashfs", "mkdir d; mksquashfs d x -quiet >/dev/null"},
		{"ISO 9660", "mkdir d; touch d/f; xorriso -as mkisofs -quiet -o x d 2>/dev/null"},
		{"boot code as gzip", "mv disk.raw x; printf '\\037\\213\\010\\0' | dd of=x conv=notrunc status=none"},
		{"boot code as qcow2", "mv disk.raw x; printf 'QFI\\373\\0\\0\\0\\3' | dd of=x conv=notrunc status=none"},
		{"last sector as VHD", "mv disk.raw x; printf conectix | dd of=x conv=notrunc status=none bs=512 seek=16383"},
		{"ustar without a checksum", "truncate -s 1M x; printf ustar | dd of=x conv=notrunc status=none bs=1 seek=257"},
		{"BZh in a text", "printf 'BZh is how bzip2 files begin' > x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := disk(t)
			sh(t, dir, c.make)
			if format, ok := detect(t, filepath.Join(dir, "x")); ok {
				t.Errorf("it is called %s", format.Name)
			}
		})
	}
}

// The footer of a VHD that was once the whole disk says another size than that of a disk it lies at the end of.
func TestOldVHDFooter(t *testing.T) {
	dir, _ := disk(t)
	sh(t, dir,
		"qemu-img convert -O vpc -o subformat=fixed,force_size=on disk.raw x; truncate -s 16M big; "+
			"dd if=x of=big bs=512 skip=16384 seek=32767 conv=notrunc status=none")
	if _, ok := detect(t, filepath.Join(dir, "x")); !ok {
		t.Error("the VHD is not known")
	}
	if format, ok := detect(t, filepath.Join(dir, "big")); ok {
		t.Errorf("a disk with an old footer is called %s", format.Name)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestReadError(t *testing.T) {
	if _, _, err := Detect(failing{}, 4096); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Detect = %v", err)
	}
}

func FuzzDetect(f *testing.F) {
	for _, m := range magics {
		b := make([]byte, 1024)
		copy(b[m.at:], m.magic)
		f.Add(b)
	}
	footer := make([]byte, 1024)
	copy(footer[512:], "conectix")
	binary.BigEndian.PutUint64(footer[512+48:], 512)
	footer[512+63] = 2
	f.Add(footer)
	f.Fuzz(func(t *testing.T, b []byte) {
		format, ok, err := Detect(bytes.NewReader(b), int64(len(b)))
		if err != nil || ok != (format.Name != "") {
			t.Errorf("Detect = %+v, %v, %v", format, ok, err)
		}
		if line := format.Convert("-a b'c\n"); ok && !strings.Contains(line, `'./-a b'\''c`+"\n'") {
			t.Errorf("Convert = %s", line)
		}
	})
}
