package multicast

import (
	"os"
	"strconv"
	"strings"
)

// LinkRate is the speed of an interface in bytes per second, or 1 Gbit/s where the driver does not say.
func LinkRate(name string) float64 {
	text, err := os.ReadFile("/sys/class/net/" + name + "/speed") // in Mbit/s; -1 when there is none
	if err != nil {
		return defaultRate
	}
	mbit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || mbit < 1 {
		return defaultRate
	}
	return float64(mbit) * 1e6 / 8
}
