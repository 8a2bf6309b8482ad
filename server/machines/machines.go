// Package machines knows the PCs of the site.
//
// A machine is recognised by scored evidence: SMBIOS UUID and serial number, MAC
// addresses, serial numbers of internal disks (evidence.go). All of it is a claim of
// whoever sends it; what follows from a match is only that the server treats the
// sender as that machine, so nothing destructive may hang on a match alone: a
// machine that registers is pending until an admin adopts it, and an adopted one does
// only what an admin ordered for it.
//
//	register: claim -> best machine with a clear lead     -> its facts are updated
//	                -> none, or several that look alike   -> a new pending machine
//
// In doubt a new machine is made: an admin removes one too many in seconds, while two
// PCs taken for one would overwrite each other's disks.
package machines

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"clonecast/internal/protocol"
	"clonecast/internal/text"
	"clonecast/server/database"
)

// Limits that keep a flood of registrations from filling the database.
const (
	maxPending        = 1000
	maxPendingPerHost = 32 // from one address
	pendingLifetime   = 7 * 24 * time.Hour
	maxEvidence       = 128 // pieces of one machine
	maxHistory        = 32  // hardware changes of one machine
)

// Machine is a PC that the server knows.
type Machine struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	State      string         `json:"state"` // protocol.MachinePending or MachineAdopted
	ReservedIP string         `json:"reserved_ip,omitempty"`
	Note       string         `json:"note,omitempty"`    // what an admin should know: duplicate identity
	Address    string         `json:"address,omitempty"` // last seen at
	Facts      protocol.Facts `json:"facts"`
	Registered time.Time      `json:"registered"`
	LastSeen   time.Time      `json:"last_seen"`
}

// MAC is the address of the interface that the machine boots from, as far as known.
func (m Machine) MAC() string {
	best, rank := "", -1
	for _, n := range m.Facts.NICs {
		r := 0
		if n.Link {
			r = 1
		}
		if n.Booted {
			r = 2
		}
		if r > rank {
			best, rank = n.MAC, r
		}
	}
	return best
}

// History is what a machine's hardware was for a time.
type History struct {
	Facts     protocol.Facts `json:"facts"`
	FirstSeen time.Time      `json:"first_seen"`
	LastSeen  time.Time      `json:"last_seen"`
}

// Registry keeps the machines.
type Registry struct {
	db      *sql.DB
	now     func() time.Time
	log     *slog.Logger
	changed func()
}

// New makes a registry; changed is called after every change of the list of machines.
func New(db *sql.DB, now func() time.Time, log *slog.Logger, changed func()) *Registry {
	return &Registry{db: db, now: now, log: log, changed: changed}
}

func problem(code, hint, format string, a ...any) error {
	return &protocol.Problem{Code: code, Title: fmt.Sprintf(format, a...), Hint: hint}
}

func invalid(format string, a ...any) error {
	return problem(protocol.CodeInvalid, "", format, a...)
}

const columns = "id, name, state, reserved_ip, note, address, facts, registered, last_seen"

func scan(row interface{ Scan(...any) error }) (Machine, error) {
	var m Machine
	var facts string
	var registered, seen int64
	err := row.Scan(&m.ID, &m.Name, &m.State, &m.ReservedIP, &m.Note, &m.Address, &facts, &registered, &seen)
	if err != nil {
		return Machine{}, err
	}
	if err := json.Unmarshal([]byte(facts), &m.Facts); err != nil {
		return Machine{}, fmt.Errorf("facts of machine %s: %w", m.ID, err)
	}
	m.Registered, m.LastSeen = database.Time(registered), database.Time(seen)
	return m, nil
}

// List gives all machines by name.
func (r *Registry) List(ctx context.Context) ([]Machine, error) {
	rows, err := r.db.QueryContext(ctx, "SELECT "+columns+" FROM machines ORDER BY name")
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	return collect(rows)
}

// Get finds a machine by id.
func (r *Registry) Get(ctx context.Context, id string) (Machine, error) {
	m, err := scan(r.db.QueryRowContext(ctx, "SELECT "+columns+" FROM machines WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Machine{}, problem(protocol.CodeNotFound, "'clonecast machine list' shows what there is", "no machine %q", id)
	}
	return m, err
}

// Find finds a machine as people write it: name, id, the beginning of an id, or a MAC. It looks at the machines
// that may be meant and no others.
func (r *Registry) Find(ctx context.Context, ref string) (Machine, error) {
	if ref == "" { // the beginning of every id
		return Machine{}, problem(protocol.CodeInvalid, "give a machine's name, id or MAC", "no machine is named")
	}
	exact, err := r.some(ctx, "id = $1 OR name = $1", ref)
	if err != nil {
		return Machine{}, err
	}
	if len(exact) > 0 {
		return exact[0], nil
	}
	found, err := r.some(ctx, "id > $1 AND id < $2", ref, ref+"g") // behind the hex digits
	if err != nil {
		return Machine{}, err
	}
	cards, err := r.some(ctx, "id IN (SELECT machine_id FROM machine_evidence WHERE kind = $1 AND value = $2)",
		kindMAC, strings.ToLower(ref))
	if err != nil {
		return Machine{}, err
	}
	for _, m := range cards { // evidence is also of cards that it had
		if slices.ContainsFunc(m.Facts.NICs, func(n protocol.NIC) bool { return strings.EqualFold(n.MAC, ref) }) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Machine{}, problem(protocol.CodeNotFound, "'clonecast machine list' shows what there is", "no machine %q", ref)
	}
	var like []string
	for _, m := range found[:min(len(found), 5)] {
		like = append(like, m.ID+" ("+m.Name+")")
	}
	return Machine{}, problem(protocol.CodeConflict, "use a machine's name or more of its id",
		"%q means %d machines: %s", ref, len(found), strings.Join(like, ", "))
}

// maxFound bounds the machines that a few letters may mean.
const maxFound = 20

// some gives the machines that a condition names, by name.
func (r *Registry) some(ctx context.Context, where string, args ...any) ([]Machine, error) {
	rows, err := r.db.QueryContext(ctx, fmt.Sprintf("SELECT %s FROM machines WHERE %s ORDER BY name LIMIT %d",
		columns, where, maxFound), args...)
	if err != nil {
		return nil, fmt.Errorf("find machine: %w", err)
	}
	return collect(rows)
}

func collect(rows *sql.Rows) ([]Machine, error) {
	defer rows.Close()
	list := []Machine{}
	for rows.Next() {
		m, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list machines: %w", err)
		}
		list = append(list, m)
	}
	return list, rows.Err()
}

// Count tells how many machines there are, and how many of them wait for adoption.
func (r *Registry) Count(ctx context.Context) (all, pending int, err error) {
	err = r.db.QueryRowContext(ctx, "SELECT count(*), count(CASE WHEN state = $1 THEN 1 END) FROM machines",
		protocol.MachinePending).Scan(&all, &pending)
	if err != nil {
		return 0, 0, fmt.Errorf("count machines: %w", err)
	}
	return all, pending, nil
}

// History lists what the machine's hardware was, the newest first.
func (r *Registry) History(ctx context.Context, id string) ([]History, error) {
	rows, err := r.db.QueryContext(ctx, "SELECT facts, first_seen, last_seen FROM machine_facts "+
		"WHERE machine_id = $1 ORDER BY last_seen DESC", id)
	if err != nil {
		return nil, fmt.Errorf("history of machine %s: %w", id, err)
	}
	defer rows.Close()
	list := []History{}
	for rows.Next() {
		var h History
		var facts string
		var first, last int64
		if err := rows.Scan(&facts, &first, &last); err != nil {
			return nil, fmt.Errorf("history of machine %s: %w", id, err)
		}
		if err := json.Unmarshal([]byte(facts), &h.Facts); err != nil {
			return nil, fmt.Errorf("history of machine %s: %w", id, err)
		}
		h.FirstSeen, h.LastSeen = database.Time(first), database.Time(last)
		list = append(list, h)
	}
	return list, rows.Err()
}

// Adoption is what an admin decides about a machine. Empty fields change nothing.
type Adoption struct {
	Name string
	IP   string // reserved for it; "none" takes the reservation away
}

// Adopt makes a machine one that may be given tasks.
func (r *Registry) Adopt(ctx context.Context, id string, a Adoption) (Machine, error) {
	if a.Name != "" {
		if err := checkName(a.Name); err != nil {
			return Machine{}, err
		}
	}
	ip := a.IP
	if ip != "" && ip != "none" {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !addr.Is4() || addr.IsUnspecified() || addr.IsMulticast() {
			return Machine{}, invalid("%q is not an IPv4 address of a PC", ip)
		}
		ip = addr.String()
	}
	err := database.Tx(ctx, r.db, func(tx *sql.Tx) error {
		var clash string
		err := tx.QueryRow("SELECT name FROM machines "+
			"WHERE id <> $1 AND ($2 <> '' AND name = $2 OR $3 <> '' AND reserved_ip = $3)", id, a.Name, ip).Scan(&clash)
		if err == nil {
			return problem(protocol.CodeConflict, "", "machine %s already has that name or address", clash)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`UPDATE machines SET state = $2, name = CASE WHEN $3 = '' THEN name ELSE $3 END,
			reserved_ip = CASE $4 WHEN '' THEN reserved_ip WHEN 'none' THEN '' ELSE $4 END WHERE id = $1`,
			id, protocol.MachineAdopted, a.Name, ip)
		return err
	})
	if err != nil {
		return Machine{}, fmt.Errorf("adopt machine %s: %w", id, err)
	}
	r.changed()
	return r.Get(ctx, id)
}

// Remove forgets a machine and its history. The next time it boots it is unknown.
func (r *Registry) Remove(ctx context.Context, id string) error {
	result, err := r.db.ExecContext(ctx, "DELETE FROM machines WHERE id = $1", id)
	if err != nil {
		return fmt.Errorf("remove machine %s: %w", id, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return problem(protocol.CodeNotFound, "", "no machine %q", id)
	}
	r.changed()
	return nil
}

// Note records what an admin should know about a machine.
func (r *Registry) Note(ctx context.Context, id, note string) error {
	_, err := r.db.ExecContext(ctx, "UPDATE machines SET note = $2 WHERE id = $1", id, text.Clean(note, 1024))
	if err != nil {
		return fmt.Errorf("note on machine %s: %w", id, err)
	}
	return nil
}

// newID makes an id that nobody guesses.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return hex.EncodeToString(b[:])
}

// digest names facts without what changes from boot to boot.
func digest(f protocol.Facts) string {
	f.Uptime, f.Appliance = 0, ""
	f.NICs = append([]protocol.NIC(nil), f.NICs...)
	for i := range f.NICs {
		f.NICs[i].Link, f.NICs[i].Booted = false, false
	}
	b, _ := json.Marshal(f) // plain strings and numbers
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
