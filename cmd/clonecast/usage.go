package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage marks err as a mistake on the command line of cmd.
func usage(cmd *cobra.Command, err error) error {
	line := cmd.CommandPath()
	if _, words, ok := strings.Cut(cmd.Use, " "); ok {
		line += " " + words
	}
	return withCode(exitUsage, err, fmt.Sprintf("it is used as '%s'; '%s --help' tells more", line, cmd.CommandPath()))
}

// words declares what stands on a command line beside flags, and checks it and the required flags.
// Each name is a word that must be there; [NAME] may be left out, NAME… stands for one or more, and
// [NAME…] for any number.
func words(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		for i, name := range names {
			required := !strings.HasPrefix(name, "[")
			if required && (i >= len(given) || given[i] == "") {
				return usage(cmd, fmt.Errorf("%s is missing", strings.TrimSuffix(name, "…")))
			}
		}
		many := len(names) > 0 && strings.Contains(names[len(names)-1], "…")
		if len(given) > len(names) && !many {
			return usage(cmd, fmt.Errorf("%q is one word too many", given[len(names)]))
		}
		return missingFlag(cmd)
	}
}

// requiredFlag is the annotation of flags that must be given.
const requiredFlag = "clonecast_required"

// require says that flags must be given, and not empty.
func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		cobra.CheckErr(cmd.Flags().SetAnnotation(name, requiredFlag, nil))
	}
}

func missingFlag(cmd *cobra.Command) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, required := f.Annotations[requiredFlag]
		given := f.Changed && f.Value.String() != "" && f.Value.String() != "[]"
		if required && !given && err == nil {
			value, _ := pflag.UnquoteUsage(f)
			err = usage(cmd, fmt.Errorf("--%s %s is missing", f.Name, value))
		}
	})
	return err
}

// ownManners replaces what the library says of wrong command lines and of commands that only hold others.
func ownManners(root *cobra.Command) {
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCmd())
	root.SetVersionTemplate("clonecast {{.Version}}\n")
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}",
		"{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			for _, shell := range c.Commands() {
				shell.Args, shell.RunE, shell.Run = words(), printCompletion, nil
			}
		}
	}
	holdOthers(root)
}

// printCompletion replaces the library's, which does not print to the command's output.
func printCompletion(cmd *cobra.Command, _ []string) error {
	plain, err := cmd.Flags().GetBool("no-descriptions")
	if err != nil {
		return err
	}
	root, out := cmd.Root(), cmd.OutOrStdout()
	switch cmd.Name() {
	case "bash":
		return root.GenBashCompletionV2(out, !plain)
	case "zsh":
		if plain {
			return root.GenZshCompletionNoDesc(out)
		}
		return root.GenZshCompletion(out)
	case "fish":
		return root.GenFishCompletion(out, !plain)
	}
	if plain {
		return root.GenPowerShellCompletion(out)
	}
	return root.GenPowerShellCompletionWithDesc(out)
}

// holdOthers lets commands that do nothing themselves say which commands they hold.
func holdOthers(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		holdOthers(c)
	}
	if cmd.HasSubCommands() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = unknownCommand
		cmd.Run = nil
	}
}

// unknownCommand says what a word that is no command may have been meant for.
func unknownCommand(cmd *cobra.Command, given []string) error {
	names := commandNames(cmd)
	if len(given) == 0 {
		return withCode(exitUsage, fmt.Errorf("a command is missing after '%s'", cmd.CommandPath()),
			fmt.Sprintf("there are %s; '%s --help' tells what they do", strings.Join(names, ", "), cmd.CommandPath()))
	}
	hint := fmt.Sprintf("there are %s; '%s --help' tells what they do", strings.Join(names, ", "), cmd.CommandPath())
	if near := closest(given[0], append(cmd.SuggestionsFor(given[0]), names...)); near != "" {
		hint = fmt.Sprintf("did you mean '%s %s'?", cmd.CommandPath(), near)
	}
	return withCode(exitUsage, fmt.Errorf("%q is no command of '%s'", given[0], cmd.CommandPath()), hint)
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// flagError says what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var empty *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		err = fmt.Errorf("there is no flag -%s", unknown.GetSpecifiedName())
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		err = fmt.Errorf("there is no flag --%s", name)
		if near := closest(name, flagNames(cmd)); near != "" {
			return withCode(exitUsage, err, fmt.Sprintf("did you mean --%s? '%s --help' lists the flags", near,
				cmd.CommandPath()))
		}
	case errors.As(err, &empty):
		value, _ := pflag.UnquoteUsage(empty.GetFlag())
		err = fmt.Errorf("--%[1]s wants a value: --%[1]s %[2]s", empty.GetFlag().Name, value)
	case errors.As(err, &invalid):
		kind := map[string]string{"int": "a whole number", "bool": "true or false",
			"duration": "a duration as 90s, 10m or 24h"}[invalid.GetFlag().Value.Type()]
		err = fmt.Errorf("--%s wants %s, not %q", invalid.GetFlag().Name, cmp.Or(kind, "another value"),
			invalid.GetValue())
	}
	return usage(cmd, err)
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// newHelpCmd replaces the library's, which is content with unknown commands.
func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND…]",
		Short: "Show how a command is used",
		Args:  words("[COMMAND…]"),
		RunE: func(cmd *cobra.Command, given []string) error {
			about := cmd.Root()
			for i, name := range given {
				at := slices.IndexFunc(about.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if at < 0 {
					return unknownCommand(about, given[i:])
				}
				about = about.Commands()[at]
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// closest gives the name that a word was most likely meant for: at most a third of it, and one letter in any
// case, is wrong. It is "" if there is none.
func closest(word string, names []string) string {
	best, found := max(1, len(word)/3)+1, ""
	for _, name := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < best {
			best, found = d, name
		}
	}
	return found
}

// distance is how many letters must be inserted, left out, replaced or swapped with the next to turn a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1) // rows[i][j]: of the first i letters of x and j of y
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
				continue
			case x[i-1] == y[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
			}
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], 1+rows[i-2][j-2])
			}
		}
	}
	return rows[len(x)][len(y)]
}
