package table_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

const diskSize = 64 * quantity.MiB

func TestReadDisks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []string // shell commands; $D is the disk
		kind  partition.Kind
		parts string
	}{
		{"blank", nil, partition.None, "0:0+131072"},
		{"FAT without a table", []string{"mkfs.vfat $D"}, partition.None, "0:0+131072"},
		{"NTFS without a table", []string{"mkfs.ntfs -qF $D"}, partition.None, "0:0+131072"},
		{"ext4 without a table", []string{"mkfs.ext4 -q $D"}, partition.None, "0:0+131072"},
		{"MBR", []string{"echo 'start=63,size=100' | sfdisk -q -X dos $D"}, partition.MBR, "1:63+100"},
		{"empty MBR", []string{"echo 'label: dos' | sfdisk -q $D"}, partition.None, "0:0+131072"},
		{"ext4 with boot code in front of it, as GRUB makes it", []string{"mkfs.ext4 -q $D",
			`printf '\353\143\220' | dd of=$D conv=notrunc status=none`,
			`printf '\125\252' | dd of=$D bs=1 seek=510 conv=notrunc status=none`},
			partition.None, "0:0+131072"},
		{"MBR over an old FAT boot sector, as GRUB leaves it",
			[]string{"mkfs.vfat $D",
				"echo 'start=2048,size=100' | sfdisk -q -X dos --wipe never $D"}, partition.MBR, "1:2048+100"},
		{"GPT", []string{"echo 'start=2048,size=100' | sfdisk -q -X gpt $D"}, partition.GPT, "1:2048+100"},
		{"MBR over an old GPT", []string{"echo 'start=2048,size=100' | sfdisk -q -X gpt $D",
			"dd if=/dev/zero of=$D bs=512 count=1 conv=notrunc status=none",
			`printf '\001\0\0\0\203\0\0\0\100\0\0\0\100\0\0\0' >$D.e`, `printf '\0' | dd of=$D.e bs=1 conv=notrunc status=none`,
			"dd if=$D.e of=$D bs=1 seek=446 conv=notrunc status=none",
			`printf '\125\252' | dd of=$D bs=1 seek=510 conv=notrunc status=none`},
			partition.MBR, "1:64+64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := disktest.Image(t, diskSize)
			for _, step := range tc.steps {
				disktest.Run(t, "", "sh", "-ec", "D="+path+"; "+step)
			}
			got, err := table.Read(disktest.Open(t, path), diskSize, 512)
			if err != nil {
				t.Fatal(err)
			}
			var parts []string
			for _, p := range got.Partitions {
				parts = append(parts, fmt.Sprintf("%d:%d+%d", p.Number, p.Start/512, p.Length/512))
			}
			if diff := cmp.Diff(tc.parts, strings.Join(parts, " ")); diff != "" || got.Kind != tc.kind {
				t.Errorf("kind %s, want %s; partitions (-want +got):\n%s", got.Kind, tc.kind, diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	path := disktest.Image(t, diskSize)
	disktest.Run(t, "start=2048,size=100\n", "sfdisk", "-q", "-X", "gpt", path)
	f := disktest.Open(t, path)
	var corrupt *partition.CorruptError

	if _, err := f.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := table.Read(f, diskSize, 512); !errors.As(err, &corrupt) {
		t.Errorf("GPT without protective MBR: %+v, %v, want a *CorruptError", got, err)
	}

	protective := make([]byte, 4096)
	protective[446+4], protective[446+8], protective[446+12] = 0xee, 1, 7
	protective[510], protective[511] = 0x55, 0xaa
	if got, err := table.Read(bytes.NewReader(protective), 4096, 512); !errors.As(err, &corrupt) {
		t.Errorf("protective MBR without GPT: %+v, %v, want a *CorruptError", got, err)
	}
	if got, err := table.Read(bytes.NewReader(protective), 4096, 100); err == nil {
		t.Errorf("sectors of 100 bytes: %+v, want an error", got)
	}
	if got, err := table.Read(bytes.NewReader(nil), 0, 512); err == nil {
		t.Errorf("disk of 0 bytes: %+v, want an error", got)
	}
	blind := &disktest.Faulty{ReaderAt: bytes.NewReader(make([]byte, 8192)),
		Bad: []quantity.Extent{{Start: 512, Length: 512}}}
	if got, err := table.Read(blind, 8192, 512); err != nil || got.Kind != partition.None {
		t.Errorf("blank disk whose second sector cannot be read: %+v, %v, want no table", got, err)
	}
	if got, err := table.Read(bytes.NewReader(nil), 4096, 512); err == nil {
		t.Errorf("disk that ends early: %+v, want an error", got)
	}
}

// TestLiveSticks reads sticks made of ISO images of live systems, whose partitions overlap. They are
// refused with the way round, or can be captured.
func TestLiveSticks(t *testing.T) {
	dir := t.TempDir()
	disktest.Run(t, "", "sh", "-ec", "cd "+dir+`; mkdir -p iso/isolinux; head -c 3M /dev/urandom >iso/vmlinuz
		head -c 20480 /dev/urandom >iso/isolinux/isolinux.bin; head -c 432 /dev/urandom >mbr
		truncate -s 1M iso/efi.img; mkfs.fat -F 12 iso/efi.img`)
	const boot = "-c isolinux/boot.cat -b isolinux/isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table"
	const efi = " -eltorito-alt-boot -e efi.img -no-emul-boot -isohybrid-gpt-basdat"
	for name, tc := range map[string]struct {
		args string
		kind partition.Kind // none: refused
	}{
		"from sector 0":   {"-isohybrid-mbr mbr " + boot + efi, ""},
		"from sector 64":  {"-isohybrid-mbr mbr -partition_offset 16 " + boot + efi, ""},
		"nothing for EFI": {"-isohybrid-mbr mbr " + boot, partition.None},
		"GPT": {"--grub2-mbr mbr -partition_offset 16 -append_partition 2 28732ac11ff8d211ba4b00a0c93ec93b " +
			"iso/efi.img -appended_part_as_gpt " + boot +
			" -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot", partition.GPT},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			disktest.Run(t, "", "sh", "-ec", "cd "+dir+"; xorriso -as mkisofs -quiet -o "+path+" "+tc.args+
				" iso; truncate -s 64M "+path)
			got, err := table.Read(disktest.Open(t, path), diskSize, 512)
			if tc.kind != "" {
				if err != nil || got.Kind != tc.kind {
					t.Errorf("a table of kind %q, %v, want %q", got.Kind, err, tc.kind)
				}
				return
			}
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--whole-disk") {
				t.Errorf("%+v, %v, want an error with the way round", got, err)
			}
		})
	}
	if hint, ok := partition.ErrUnsupported.(interface{ Hint() string }); !ok ||
		!strings.Contains(hint.Hint(), "--whole-disk") {
		t.Error("dynamic disks: no way round is named")
	}
}

// TestMutations reads thousands of damaged tables that sfdisk made. The checksums of a GPT are
// made to fit now and then.
func TestMutations(t *testing.T) {
	gpt := strings.Repeat("size=100\n", 9)
	dos := "start=63, size=1000\nstart=4096, type=5\n" + strings.Repeat("size=1000\n", 9)
	for _, script := range []string{"label: gpt\n" + gpt, "label: dos\n" + dos,
		"label: dos\nstart=1, size=70000, type=ee\n"} {
		path := disktest.Image(t, diskSize)
		disktest.Run(t, script, "sfdisk", "-q", "--force", path)
		base := disktest.Load(t, path)
		first, err := table.Read(base, diskSize, 512)
		var corrupt *partition.CorruptError
		if err != nil && !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
		places := []quantity.Extent{{Start: 440, Length: 72}, {Start: 512, Length: 92}, {Start: 1024, Length: 1200},
			{Start: diskSize - 512, Length: 92}}
		for _, a := range first.Areas {
			if a.Kind == partition.AreaTable && a.Length == 512 {
				places = append(places, quantity.Extent{Start: a.Start + 446, Length: 66})
			}
		}
		random := rand.New(rand.NewPCG(8, 1))
		refused := 0
		for range 4000 {
			s := base.Clone()
			for range 1 + random.IntN(4) {
				p := places[random.IntN(len(places))]
				s.Edit(int64(p.Start)+random.Int64N(min(int64(p.Length), 4096-int64(p.Start)%4096)),
					1)[0] ^= byte(1 << random.IntN(8))
			}
			if random.IntN(4) > 0 {
				sumGPT(s)
			}
			got, err := table.Read(s, diskSize, 512)
			if err == nil {
				err = got.Check(diskSize)
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			refused++
			if !errors.As(err, &corrupt) && !errors.Is(err, partition.ErrUnsupported) {
				t.Fatalf("Read = %v, of no known kind", err)
			}
			if diff := cmp.Diff(partition.Table{}, got); diff != "" {
				t.Fatalf("a table comes with the error: %s", diff)
			}
		}
		if refused < 100 {
			t.Errorf("%.20q: only %d of 4000 damaged tables are refused", script, refused)
		}
	}
}

// sumGPT makes the checksums of a primary GPT with 128 entries in their usual place fit.
func sumGPT(s *disktest.Sparse) {
	entries := make([]byte, 128*128)
	if _, err := s.ReadAt(entries, 1024); err != nil {
		return
	}
	h := s.Edit(512, 92)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
}

func FuzzRead(f *testing.F) {
	disk := make([]byte, 8192)
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[446:], []byte{0x80, 0, 2, 0, 0x0b, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0})
	f.Add(disk, false)
	f.Add(make([]byte, 8192), true)
	f.Fuzz(func(t *testing.T, disk []byte, large bool) {
		sector := quantity.SectorSize(512)
		if large {
			sector = 4096
		}
		got, err := table.Read(bytes.NewReader(disk), quantity.Bytes(len(disk)), sector)
		if err != nil {
			if diff := cmp.Diff(partition.Table{}, got); diff != "" {
				t.Fatalf("a table comes with the error: %s", diff)
			}
			return
		}
		if err := got.Check(quantity.Bytes(len(disk))); err != nil {
			t.Fatal(err)
		}
	})
}
